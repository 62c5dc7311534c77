"""transformers' own models, as the independent word on names, shapes and counts."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel


def peer(class_name: str, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model of the class without weights, and its config as config.json would have it."""
    cls = getattr(transformers, class_name)
    config = cls.config_class(**options)
    with torch.device("meta"):
        model = cls(config)
    written = {**config.to_dict(), "architectures": [class_name]}
    return model, written


def shapes_of(model: PreTrainedModel) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and element type of every tensor that `save_pretrained` would write."""
    tied = set(model.all_tied_weights_keys)
    return {name: (tuple(value.shape), "BF16") for name, value in model.state_dict().items() if name not in tied}


TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED = {**TINY, "num_key_value_heads": 2}
TINY_GPT2 = {
    "n_embd": 16,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 8,
    "vocab_size": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
TINY_BERT = {**TINY, "max_position_embeddings": 8}

# Class and options: every switch of every table, on and off.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("LlamaForCausalLM", TINY),
    ("LlamaForCausalLM", {**GROUPED, "head_dim": 6, "attention_bias": True, "mlp_bias": True}),
    ("LlamaForCausalLM", {**GROUPED, "tie_word_embeddings": True}),
    ("LlamaModel", GROUPED),
    ("LlamaForSequenceClassification", {**GROUPED, "num_labels": 5}),
    ("MistralForCausalLM", GROUPED),
    ("MistralForCausalLM", {**GROUPED, "head_dim": 8, "tie_word_embeddings": True}),
    ("MistralModel", GROUPED),
    ("Qwen2ForCausalLM", GROUPED),
    ("Qwen2ForCausalLM", {**GROUPED, "tie_word_embeddings": True}),
    ("Qwen2Model", GROUPED),
    ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 6}),
    ("Qwen3ForCausalLM", {**GROUPED, "attention_bias": True, "tie_word_embeddings": True}),
    ("Qwen3Model", GROUPED),
    ("GPT2LMHeadModel", TINY_GPT2),
    ("GPT2LMHeadModel", {**TINY_GPT2, "n_inner": 20, "tie_word_embeddings": False}),
    ("GPT2Model", TINY_GPT2),
    ("GPT2ForSequenceClassification", {**TINY_GPT2, "num_labels": 3}),
    ("GPTNeoXForCausalLM", TINY),
    ("GPTNeoXForCausalLM", {**TINY, "attention_bias": False, "tie_word_embeddings": True}),
    ("GPTNeoXModel", TINY),
    ("BertModel", TINY_BERT),
    ("BertForMaskedLM", TINY_BERT),
    ("BertForMaskedLM", {**TINY_BERT, "tie_word_embeddings": False}),
    ("BertForPreTraining", TINY_BERT),
    ("BertLMHeadModel", {**TINY_BERT, "is_decoder": True}),
    ("BertForSequenceClassification", {**TINY_BERT, "num_labels": 4}),
    ("BertForTokenClassification", TINY_BERT),
    ("BertForQuestionAnswering", TINY_BERT),
]
IDS = [f"{name}-{position}" for position, (name, _) in enumerate(VARIANTS)]
