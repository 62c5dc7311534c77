"""Optimal transport between two sets of units: the shares in which one model's units make up another's."""

from __future__ import annotations

import numpy as np

from steelyard.edits.align.assignment import assign
from steelyard.errors import UserError


def transport(cost: np.ndarray, regularization: float = 0.0, rounds: int = 1000) -> np.ndarray:
    """Return the plan between units of equal weight on each side that costs the least.

    Args:
        cost: of moving mass between units, float64 [n, m].
        regularization: weight of the plan's entropy, relative to the mean cost; 0 is the exact optimum. Squares
            need nothing for that; other shapes need POT.
        rounds: the most of Sinkhorn's steps.

    Returns:
        float64 [n, m]; rows sum to 1/n, columns to 1/m.

    Raises:
        UserError: if POT is missing.

    Source: Cuturi 2013, arXiv 1306.0895, of the entropic plan, in the logarithmic domain.
    """
    n, m = cost.shape
    if regularization > 0:
        return _sinkhorn(cost / max(float(cost.mean()), 1e-300), regularization, rounds)
    if n == m:
        # The vertices of the doubly stochastic matrices are the permutations (Birkhoff), so one of them is best.
        plan = np.zeros((n, n))
        plan[np.arange(n), assign(-cost)] = 1 / n
        return plan
    try:
        import ot
    except ImportError:
        raise UserError(
            f"an exact plan between {n} and {m} units needs the package POT: pip install 'steelyard[transport]', "
            "or set a regularization"
        ) from None
    exact: np.ndarray = ot.emd(
        np.full(n, 1 / n), np.full(m, 1 / m), np.ascontiguousarray(cost), numItermax=10_000_000
    )
    return exact


def _sinkhorn(cost: np.ndarray, regularization: float, rounds: int) -> np.ndarray:
    n, m = cost.shape
    scaled = -cost / regularization
    first, second = np.zeros(n), np.zeros(m)
    for _ in range(rounds):
        first = -np.log(n) - _logsumexp(scaled + second, axis=1)
        second = -np.log(m) - _logsumexp(scaled + first[:, None], axis=0)
        plan = np.exp(scaled + first[:, None] + second)
        if np.abs(plan.sum(axis=1) * n - 1).max() < 1e-9:
            break
    found: np.ndarray = plan
    return found


def _logsumexp(values: np.ndarray, axis: int) -> np.ndarray:
    top = values.max(axis=axis, keepdims=True)
    total: np.ndarray = np.log(np.exp(values - top).sum(axis=axis)) + top.squeeze(axis)
    return total
