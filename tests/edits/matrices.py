"""Matrices and second moments for the tests of rounding."""

from __future__ import annotations

import numpy as np


def correlated(seed: int, out: int, columns: int, tokens: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Return a weight [out, in] and the second moment of inputs with few strong directions and uneven power."""
    draw = np.random.default_rng(seed)
    mixing = draw.normal(size=(columns, columns)) * draw.lognormal(0, 0.8, size=columns)[:, None]
    mixing *= np.linspace(1.5, 0.1, columns) ** 2
    inputs = draw.normal(size=(tokens, columns)) @ mixing.T
    weight = draw.standard_t(5, size=(out, columns)).astype(np.float32) * 0.05
    return weight, inputs.T @ inputs / tokens
