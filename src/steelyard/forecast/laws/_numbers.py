"""Numbers that several laws need."""

from __future__ import annotations

import numpy as np

from steelyard.forecast.law import Array


def softplus(value: Array) -> Array:
    """Return ln(1 + exp(value)) without overflow, also for complex numbers."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.where(value.real > 0, value + np.log1p(np.exp(-value)), np.log1p(np.exp(value))))


def logistic(value: Array) -> Array:
    """Return 1 / (1 + exp(-value)), the derivative of `softplus`."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * value)))
