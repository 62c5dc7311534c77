"""What a measurement says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from steelyard.measure.estimates import Estimate
from steelyard.measure.windows import Task

# Fields that are one number each, and what they mean; the order is that of tables.
QUANTITIES: Mapping[str, str] = {
    "loss": "mean negative log-likelihood, nats per token",
    "loss_increase": "loss minus the base's on the same tokens, nats per token",
    "perplexity": "exp(loss)",
    "bits_per_byte": "bits of negative log-likelihood per byte of UTF-8 text",
    "kl": "KL divergence from the base's distribution to the model's, nats per token",
    "top1_agreement": "share of tokens where both models' likeliest token is the same",
    "negative_flips": "share of tokens that the base's likeliest token gets right and the model's wrong",
    "cosine": "mean cosine between the model's and the base's embedding of a sequence",
    "cosine_distance": "1 - cosine",
    "rank_correlation": "Spearman correlation of the pairwise similarities of the sequences' embeddings",
}


@dataclass(frozen=True)
class Measurement:
    """A model measured on held-out texts, beside its base where there is one.

    Masked language models are scored at every position of the unmasked text, special tokens left out: a
    pseudo-loss, comparable between models of one tokenizer only.

    Attributes:
        model: what was measured.
        base: what it was compared with, None if nothing.
        task: of the model.
        data: in words, the texts.
        documents: number of documents.
        sequences: number of windows of text.
        tokens: number of scored tokens; of all input tokens for encoders.
        resampled: what the intervals are drawn over: documents, or windows where there is one document only.
        loss: see `QUANTITIES` for it and all that follow; None where it does not apply.
        per_document: sums of each document by quantity, and "names", "tokens", "bytes".
    """

    model: str
    base: str | None
    task: Task
    data: str
    documents: int
    sequences: int
    tokens: int
    resampled: Literal["documents", "windows"]
    loss: Estimate | None = None
    loss_increase: Estimate | None = None
    perplexity: Estimate | None = None
    bits_per_byte: Estimate | None = None
    kl: Estimate | None = None
    top1_agreement: Estimate | None = None
    negative_flips: Estimate | None = None
    cosine: Estimate | None = None
    cosine_distance: Estimate | None = None
    rank_correlation: Estimate | None = None
    per_document: Mapping[str, Any] | None = None

    @property
    def damage(self) -> Estimate | None:
        """What predicted damage is to be held against: the KL divergence, or an encoder's cosine distance."""
        return self.cosine_distance if self.task == "encoder" else self.kl

    def estimates(self) -> dict[str, Estimate]:
        """The quantities that apply, by name, in the order of `QUANTITIES`."""
        found = {name: getattr(self, name) for name in QUANTITIES}
        return {name: estimate for name, estimate in found.items() if estimate is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which `from_dict` builds the measurement again."""
        plain: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Estimate):
                value = value.to_dict()
            elif isinstance(value, Mapping):
                value = {k: v.tolist() if isinstance(v, np.ndarray) else list(v) for k, v in value.items()}
            plain[field.name] = value
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """Inverse of `to_dict`."""
        values = dict(data)
        for name in QUANTITIES:
            if values.get(name) is not None:
                values[name] = Estimate(**values[name])
        return cls(**values)
