"""The text that joints are fitted on, and the text they are measured with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steelyard.edits.stitch.options import JoinOptions
from steelyard.edits.stitch.parents import Parent
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    from steelyard.measure.evaluate import EvaluationOptions
    from steelyard.measure.model import Model
    from steelyard.measure.windows import TokenSet


def model_of(parent: Parent) -> Model:
    """Return a parent as measurement needs it."""
    from steelyard.measure.model import open_model

    return open_model(parent.model.checkpoint.location, parent.model.checkpoint).with_source(
        parent.model, parent.location
    )


def windows(
    model: Model, options: JoinOptions, longest: int, progress: Progress = SILENT
) -> tuple[TokenSet, TokenSet]:
    """Return windows to fit on, and others to measure with.

    Args:
        model: whose tokens they are.
        options: the text, how much of it and the seed.
        longest: the most positions that both models were made for.
        progress: advanced while a model writes text of its own.

    Raises:
        UserError: if there is no text.
    """
    from steelyard.measure.defaults import default_corpora
    from steelyard.measure.texts import Corpora, load_documents
    from steelyard.measure.windows import cut

    length = min(options.sequence_length, longest)
    corpora = (
        default_corpora(model, options.seed, progress, sequences=options.sequences, length=length)
        if options.data is None
        else Corpora.of(*load_documents(options.data).split())
    )
    fitted, measured = (
        cut(
            texts,
            model.tokenizer,
            model.task,
            model.vocabulary,
            sequences=sequences,
            length=length,
            seed=options.seed,
            location=model.location,
        )
        for texts, sequences in (
            (corpora.calibration, options.sequences),
            (corpora.held_out, options.eval_sequences),
        )
    )
    return fitted, measured


def settings(options: JoinOptions) -> EvaluationOptions:
    """Return how much is measured."""
    from steelyard.measure.evaluate import EvaluationOptions

    return EvaluationOptions(
        sequences=options.eval_sequences, sequence_length=options.sequence_length, seed=options.seed
    )
