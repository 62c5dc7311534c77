"""Models of different vocabularies: one tokenizer for the result, and embeddings in its order. Chat templates."""

from steelyard.edits.merge.tokenizer.result import Text, prepare_text

__all__ = ["Text", "prepare_text"]
