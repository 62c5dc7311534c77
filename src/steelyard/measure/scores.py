"""Scores of tokens and embeddings, summed over windows, and the measurement they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from steelyard.measure.estimates import Estimate, rank_correlation, ratio, resamples
from steelyard.measure.measurement import Measurement
from steelyard.measure.windows import IGNORED, Task, TokenSet

if TYPE_CHECKING:
    import torch

Resampled = Literal["documents", "windows"]

RESAMPLES = 1000


def score_tokens(
    logits: torch.Tensor, labels: np.ndarray, base_logits: torch.Tensor | None
) -> dict[str, np.ndarray]:
    """Return sums over the scored positions of each window.

    Args:
        logits: of the model [b, t, vocabulary].
        labels: [b, t]; `IGNORED` where nothing is scored.
        base_logits: of the base [b, t, vocabulary].

    Returns:
        By name [b] float64: "tokens", "loss", and with a base "base_loss", "kl", "agreement", "flips".
    """
    import torch

    scored = torch.from_numpy(labels != IGNORED)
    target = torch.from_numpy(labels)[scored]
    log_model = logits[scored].float().log_softmax(-1)
    likeliest = log_model.argmax(-1)
    values = {"tokens": torch.ones(len(target)), "loss": -log_model.gather(1, target[:, None])[:, 0]}
    if base_logits is not None:
        log_base = base_logits[scored].float().log_softmax(-1)
        base_likeliest = log_base.argmax(-1)
        values["base_loss"] = -log_base.gather(1, target[:, None])[:, 0]
        values["kl"] = (log_base.exp() * (log_base - log_model)).sum(-1)
        values["agreement"] = (likeliest == base_likeliest).float()
        values["flips"] = ((base_likeliest == target) & (likeliest != target)).float()
    sums = {}
    for name, value in values.items():
        whole = torch.zeros(scored.shape, dtype=torch.float64)
        whole[scored] = value.double()
        sums[name] = whole.sum(1).numpy()
    return sums


def language_measurement(
    sums: Mapping[str, np.ndarray], data: TokenSet, model: str, base: str | None, task: Task, seed: int
) -> Measurement:
    """Turn sums per window into a measurement.

    Args:
        sums: by name [windows], as from `score_tokens`.
        data: the windows.
        model: name of the model.
        base: name of the base.
        task: of the model.
        seed: of the resamples.
    """
    resampled, unit_of, units = _units(data)
    per_unit = {name: np.bincount(unit_of, value, units) for name, value in sums.items()}
    draws = resamples(units, RESAMPLES, seed)
    tokens = per_unit["tokens"]
    loss = ratio(per_unit["loss"], tokens, draws)
    found: dict[str, Any] = {
        "loss": loss,
        "perplexity": Estimate(*(float(np.exp(min(v, 700.0))) for v in (loss.value, loss.low, loss.high))),
    }
    nbytes = np.array([window.nbytes or 0 for window in data.windows], dtype=np.float64)
    if (nbytes > 0).any():
        known = np.bincount(unit_of, np.where(nbytes > 0, sums["loss"], 0.0), units) / np.log(2)
        found["bits_per_byte"] = ratio(known, np.bincount(unit_of, nbytes, units), draws)
    if "kl" in sums:
        found["loss_increase"] = ratio(per_unit["loss"] - per_unit["base_loss"], tokens, draws)
        found["kl"] = ratio(per_unit["kl"], tokens, draws)
        found["top1_agreement"] = ratio(per_unit["agreement"], tokens, draws)
        found["negative_flips"] = ratio(per_unit["flips"], tokens, draws)
    return Measurement(
        model=model,
        base=base if "kl" in sums else None,
        task=task,
        data=data.description,
        tokens=int(tokens.sum()),
        per_document=_per_document({**sums, "bytes": nbytes}, data),
        **_counts(data, resampled),
        **found,
    )


def embedding_measurement(
    embeddings: np.ndarray, base_embeddings: np.ndarray, data: TokenSet, model: str, base: str, seed: int
) -> Measurement:
    """Compare two models' embeddings [windows, width] of the same windows."""
    resampled, unit_of, units = _units(data)
    draws = resamples(units, RESAMPLES, seed)
    distance = cosine_distance(embeddings, base_embeddings)
    count = np.bincount(unit_of, minlength=units).astype(np.float64)
    damage = ratio(np.bincount(unit_of, distance, units), count, draws)
    cosine = Estimate(1 - damage.value, 1 - damage.high, 1 - damage.low)
    found: dict[str, Any] = {"cosine_distance": damage, "cosine": cosine}
    if len(embeddings) > 2:
        found["rank_correlation"] = rank_correlation(embeddings, base_embeddings, unit_of, draws)
    return Measurement(
        model=model,
        base=base,
        task="encoder",
        data=data.description,
        tokens=data.tokens,
        per_document=_per_document({"cosine_distance": distance, "tokens": np.ones(len(distance))}, data),
        **_counts(data, resampled),
        **found,
    )


def cosine_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return 1 - cosine of matching rows [n] float64, exact also where it is tiny."""
    a, b = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (first.astype(np.float64), second.astype(np.float64))
    )
    return np.asarray(0.5 * ((a - b) ** 2).sum(1))


def _units(data: TokenSet) -> tuple[Resampled, np.ndarray, int]:
    """What is resampled: documents, or windows where there is only one document."""
    documents = np.array([window.document for window in data.windows])
    distinct, unit_of = np.unique(documents, return_inverse=True)
    if len(distinct) > 1:
        return "documents", unit_of, len(distinct)
    return "windows", np.arange(len(documents)), len(documents)


def _counts(data: TokenSet, resampled: Resampled) -> dict[str, Any]:
    documents = len({window.document for window in data.windows})
    return {"documents": documents, "sequences": len(data.windows), "resampled": resampled}


def _per_document(sums: Mapping[str, np.ndarray], data: TokenSet) -> dict[str, Any]:
    documents = np.array([window.document for window in data.windows])
    distinct, unit_of = np.unique(documents, return_inverse=True)
    summed = {name: np.bincount(unit_of, value, len(distinct)) for name, value in sums.items()}
    return {"names": [data.names[i] for i in distinct], **summed}
