"""Measuring a model on held-out texts, alone or beside its base."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.errors import UserError
from steelyard.measure.activations import ActivationStore
from steelyard.measure.fisher import parts_of, pooled
from steelyard.measure.measurement import Measurement
from steelyard.measure.model import Model, WeightSource, open_model
from steelyard.measure.runner import BlockRunner
from steelyard.measure.scores import embedding_measurement, language_measurement, score_tokens
from steelyard.measure.texts import Corpus
from steelyard.measure.windows import TokenSet, cut
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch

    from steelyard.measure.windows import Batch


class EvaluationOptions(BaseModel):
    """How much to measure on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequences: int = Field(default=128, ge=1, description="windows of text")
    sequence_length: int = Field(default=256, ge=8, description="tokens in a window")
    batch_tokens: int = Field(default=4096, ge=8, description="tokens run at once")
    seed: int = Field(default=0, description="decides which texts, which windows and the resamples")
    activation_bytes: int = Field(default=1 << 30, ge=0, description="hidden states kept in memory; others on disk")


class Evaluator:
    """Measures several models on the same texts beside the same base, which is run once.

    Only the base's last hidden states (embeddings for an encoder) are kept, not its logits, which for a large
    vocabulary would fill any memory: both models' logits are made side by side, a part of a batch at a time.

    Args:
        base: what candidates are compared with.
        data: held-out windows of text, from `windows.cut` with the base's tokenizer.
        options: how much is run at once, and the seed of the resamples.
        progress: advanced while the base runs.

    Example:
        >>> with Evaluator(base, data) as evaluator:  # doctest: +SKIP
        ...     measurements = [evaluator.measure(source) for source in candidates]
    """

    def __init__(
        self, base: Model, data: TokenSet, options: EvaluationOptions | None = None, progress: Progress = SILENT
    ) -> None:
        self.base, self.data = base, data
        self.options = options or EvaluationOptions()
        self._batches = data.batches(self.options.batch_tokens)
        self._runner = BlockRunner(base)
        self._hidden = ActivationStore(self.options.activation_bytes)
        try:
            self._runner.forward(self._batches, self._hidden, progress, label="running the base")
            self._embeddings = self._embed(self._runner, self._hidden) if base.task == "encoder" else None
        except BaseException:
            self.close()
            raise

    def measure_base(self) -> Measurement:
        """Return the base's own loss; it is compared with nothing.

        Raises:
            UserError: for an encoder, which has no loss.
        """
        if self.base.task == "encoder":
            raise UserError(f"{self.base.location} is an encoder and has no loss; name a base with --against")
        return self._language(self._runner, self._hidden, None, self.base.location)

    def measure(
        self, candidate: Model | WeightSource, progress: Progress = SILENT, name: str | None = None
    ) -> Measurement:
        """Return how a candidate does beside the base.

        Args:
            candidate: a model, or only its weights; tokenizer and pooling are the base's in any case.
            progress: advanced by the batches.
            name: of the candidate, for reports.

        Raises:
            UserError: if it cannot be run, or has another vocabulary or task than the base.
        """
        source = candidate.source if isinstance(candidate, Model) else candidate
        location = name or (candidate.location if isinstance(candidate, Model) else "the candidate")
        model = self.base.with_source(source, location)
        if model.vocabulary != self.base.vocabulary:
            raise UserError(
                f"{location} knows {model.vocabulary} tokens, {self.base.location} {self.base.vocabulary}; "
                "only models of one vocabulary can be compared"
            )
        runner = BlockRunner(model)
        with ActivationStore(self.options.activation_bytes) as hidden:
            runner.forward(self._batches, hidden, progress, label="measuring")
            if self._embeddings is not None:
                embeddings = self._embed(runner, hidden)
                return embedding_measurement(
                    embeddings, self._embeddings, self.data, location, self.base.location, self.options.seed
                )
            return self._language(runner, hidden, self._runner, location)

    def _language(
        self, runner: BlockRunner, hidden: ActivationStore, base: BlockRunner | None, name: str
    ) -> Measurement:
        import torch

        sums: dict[str, np.ndarray] = {}
        with torch.no_grad(), runner.tail(), (base or runner).tail():
            for number, batch in enumerate(self._batches):
                states = hidden.get(number)
                base_states = None if base is None else self._hidden.get(number)
                for rows, part in parts_of(batch, self.base.vocabulary):
                    logits = runner.run_tail(part, states[rows]).logits
                    base_logits = None
                    if base is not None and base_states is not None:
                        base_logits = base.run_tail(part, base_states[rows]).logits
                    for key, value in score_tokens(logits, part.labels, base_logits).items():
                        sums.setdefault(key, np.zeros(len(self.data.windows)))[part.windows] = value
        against = None if base is None else self.base.location
        return language_measurement(sums, self.data, name, against, self.base.task, self.options.seed)

    def _embed(self, runner: BlockRunner, hidden: ActivationStore) -> np.ndarray:
        import torch

        embeddings: list[tuple[Batch, torch.Tensor]] = []
        with torch.no_grad(), runner.tail():
            for number, batch in enumerate(self._batches):
                embeddings.append((batch, pooled(runner, batch, hidden.get(number))))
        result = np.zeros((len(self.data.windows), embeddings[0][1].shape[1]), dtype=np.float32)
        for batch, values in embeddings:
            result[batch.windows] = values.numpy()
        return result

    def close(self) -> None:
        """Let go of the base's hidden states."""
        self._hidden.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def evaluate(
    model: str | Path | Model,
    against: str | Path | Model | None = None,
    documents: Corpus | None = None,
    options: EvaluationOptions | None = None,
    progress: Progress = SILENT,
) -> Measurement:
    """Measure a model on texts, beside a base if one is named.

    Args:
        model: a model folder of any format Steelyard reads, or an open model.
        against: the base, likewise.
        documents: held-out texts; see `defaults.default_corpora` for what is used if there are none.
        options: how much is measured.
        progress: advanced by the batches.

    Raises:
        UserError: if a model cannot be run, the two do not fit each other, or there is no text.
    """
    options = options or EvaluationOptions()
    candidate = model if isinstance(model, Model) else open_model(model)
    base = candidate if against is None else against if isinstance(against, Model) else open_model(against)
    if documents is None:
        from steelyard.measure.defaults import default_corpora

        documents = default_corpora(base, options.seed, progress).held_out
    data = held_out_windows(base, documents, options)
    with Evaluator(base, data, options, progress) as evaluator:
        return evaluator.measure_base() if against is None else evaluator.measure(candidate, progress)


def held_out_windows(model: Model, documents: Corpus, options: EvaluationOptions) -> TokenSet:
    """Cut documents as evaluation wants them; the length is the model's own limit where that is less."""
    return cut(
        documents,
        model.tokenizer,
        model.task,
        model.vocabulary,
        sequences=options.sequences,
        length=min(options.sequence_length, model.max_length),
        seed=options.seed,
        location=model.location,
    )
