"""The damage that a changed matrix does, to second order."""

from __future__ import annotations

import numpy as np

# Rows worked on at a time: bounds the float64 copies.
_ROWS = 1024


def error(
    weight: np.ndarray,
    decoded: np.ndarray,
    second_moment: np.ndarray | None = None,
    row_weight: np.ndarray | None = None,
) -> float:
    """Return 1/2 * sum over rows i of row_weight_i * (E H E^T)_ii, with E = decoded - weight.

    With the true Fisher information of each output as `row_weight` this predicts the KL divergence to the
    original model, in nats per token, to second order and with outputs taken as independent.

    Args:
        weight: [out, in], the original.
        decoded: [out, in], what replaces it.
        second_moment: mean of x x^T over the inputs, [in, in], or its diagonal, [in]; None is the identity.
        row_weight: [out], curvature of the loss along each output; None is ones.
    """
    total = 0.0
    moment = None if second_moment is None else np.asarray(second_moment, dtype=np.float64)
    for start in range(0, weight.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        miss = decoded[rows].astype(np.float64) - weight[rows].astype(np.float64)
        if moment is None:
            by_row = np.einsum("ij,ij->i", miss, miss)
        elif moment.ndim == 1:
            by_row = (miss * miss) @ moment
        else:
            by_row = np.einsum("ij,ij->i", miss @ moment, miss)
        total += float(by_row.sum() if row_weight is None else by_row @ row_weight[rows].astype(np.float64))
    return 0.5 * total
