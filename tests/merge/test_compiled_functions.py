"""What compiled loops compute with, against float64 and against plain numpy."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from steelyard.edits.merge.methods import _functions
from steelyard.edits.merge.methods._fusion_kernels import divergences


def applied(function: Any, values: np.ndarray) -> np.ndarray:
    @numba.njit
    def loop(source: np.ndarray, found: np.ndarray) -> None:
        for i in range(source.size):
            found[i] = function(source[i])

    found = np.empty_like(values)
    loop(values, found)
    return found


def worst(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(found.astype(np.float64) - exact) / exact))


def test_exponentials() -> None:
    values = np.concatenate([-np.logspace(-9, np.log10(80), 20001), [0.0]])
    single = values.astype(np.float32)
    assert worst(applied(_functions.exponential32, single), np.exp(single.astype(np.float64))) < 2.0**-22
    assert worst(applied(_functions.exponential64, values), np.exp(values)) < 2.0**-50
    # Below what a type reaches, something that adds nothing to a sum of shares.
    assert 0 <= applied(_functions.exponential32, np.float32([-1e4]))[0] < 1e-34
    assert 0 <= applied(_functions.exponential64, np.array([-1e4]))[0] < 1e-300


def test_hyperbolic_tangents_of_either_sign() -> None:
    values = np.logspace(-12, 2, 20001).astype(np.float32)
    exact = np.tanh(values.astype(np.float64))
    assert worst(applied(_functions.tanh32, values), exact) < 2.0**-22
    assert np.array_equal(applied(_functions.tanh32, -values), -applied(_functions.tanh32, values))
    assert applied(_functions.tanh32, np.zeros(1, np.float32))[0] == 0


@pytest.mark.parametrize(("width", "spread"), [(1, 1.0), (7, 0.02), (300, 0.02), (300, 4.0), (64, 60.0)])
def test_divergences_of_softmaxes(width: int, spread: float) -> None:
    """With near and with very different shares: the constant small beside all of them, and not."""
    draw = np.random.default_rng(width)
    base = (spread * draw.standard_normal((5, width))).astype(np.float32)
    other = base + (0.1 * spread * draw.standard_normal((5, width))).astype(np.float32)
    found = np.empty(5, np.float32)
    divergences(other.reshape(-1), base.reshape(-1), width, 1e-8, found)

    def shares(rows: np.ndarray) -> np.ndarray:
        powers = np.exp(rows.astype(np.longdouble) - rows.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True) + 1e-8)

    first, second = shares(other), shares(base)
    exact = np.maximum((first * np.log(first / second)).sum(axis=1), 0).astype(np.float64)
    np.testing.assert_allclose(found, exact, rtol=3e-7, atol=1e-15)
