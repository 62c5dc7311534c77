"""Values with intervals: the bootstrap over documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.seeds import generator

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Plain data."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def resamples(units: int, count: int, seed: int) -> np.ndarray:
    """Return how often each unit is drawn in each of `count` resamples with replacement, [count, units] float64.

    The same seed gives the same draws, so quantities of two models on the same documents stay paired.
    """
    draw = generator(seed, "bootstrap")
    return draw.multinomial(units, np.full(units, 1 / units), size=count).astype(np.float64)


def ratio(numerators: np.ndarray, denominators: np.ndarray, draws: np.ndarray) -> Estimate:
    """Estimate sum(numerators) / sum(denominators) with its percentile interval (Efron 1979).

    Args:
        numerators: one per unit [units].
        denominators: one per unit [units].
        draws: from `resamples`.
    """
    totals = draws @ denominators
    values = (draws @ numerators)[totals > 0] / totals[totals > 0]
    return interval(float(numerators.sum() / denominators.sum()), values)


def interval(value: float, values: np.ndarray) -> Estimate:
    """Return a value with the percentile interval of its resampled values."""
    tail = 100 * (1 - CONFIDENCE) / 2
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Estimate(value, value, value)
    low, high = np.percentile(finite, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of values [n], ties sharing their mean rank."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64)


def weighted_correlation(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> float:
    """Return Pearson's correlation of two samples [n] under weights [n]; NaN where one of them is constant."""
    total = weights.sum()
    if total <= 0:
        return float("nan")
    a = first - weights @ first / total
    b = second - weights @ second / total
    scale = np.sqrt((weights @ a**2) * (weights @ b**2))
    return float(weights @ (a * b) / scale) if scale > 0 else float("nan")


def rank_correlation(first: np.ndarray, second: np.ndarray, unit_of: np.ndarray, draws: np.ndarray) -> Estimate:
    """Estimate Spearman's correlation between the pairwise similarities of two sets of embeddings.

    In a resample a pair counts as often as its two members were drawn; ranks stay those of the whole sample.

    Args:
        first: embeddings [n, d].
        second: embeddings [n, e] of the same texts.
        unit_of: the unit that each text belongs to, [n].
        draws: from `resamples`.
    """
    left, right = np.triu_indices(len(first), k=1)
    a, b = (ranks((_unit(e) @ _unit(e).T)[left, right]) for e in (first, second))
    value = weighted_correlation(a, b, np.ones(len(a)))
    values = [weighted_correlation(a, b, d[unit_of[left]] * d[unit_of[right]]) for d in draws]
    return interval(value, np.array(values))


def _unit(embeddings: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(lengths > 0, lengths, 1), dtype=np.float64)
