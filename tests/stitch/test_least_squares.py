"""The map of a stitch against numpy's least squares, in float64."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from steelyard.edits.align.moments import Moments
from steelyard.edits.stitch.least_squares import solve


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 6), st.integers(0, 40))
def test_it_is_that_of_lstsq(seed: int, first: int, second: int, more: int) -> None:
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((first + 2 + more, first)) + draw.standard_normal(first)
    y = draw.standard_normal((len(x), second)) + 3
    half = len(x) // 2
    moments = Moments.of(x[:half], y[:half])
    moments.add(Moments.of(x[half:], y[half:]))
    found = solve(moments)
    ones = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    expected, *_ = np.linalg.lstsq(ones, y)
    assert np.abs(found.weight - expected[:-1].T).max() < 1e-5 * (1 + np.abs(expected).max())
    assert np.abs(found.bias - expected[-1]).max() < 1e-5 * (1 + np.abs(expected).max())
    left = ((y - ones @ expected) ** 2).sum() / ((y - y.mean(axis=0)) ** 2).sum()
    assert abs(found.missed - left) < 1e-7


def test_channels_that_say_nothing_new_get_the_smallest_map() -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((50, 3))
    twice = np.concatenate([x, x], axis=1)
    y = x @ draw.standard_normal((3, 2))
    found = solve(Moments.of(twice, y))
    expected, *_ = np.linalg.lstsq(twice - twice.mean(axis=0), y - y.mean(axis=0))
    assert np.abs(found.weight - expected.T).max() < 1e-10
    assert found.missed < 1e-12


def test_states_that_never_change_have_nothing_to_miss() -> None:
    found = solve(Moments.of(np.ones((9, 2)), np.full((9, 3), 4.0)))
    assert np.array_equal(found.weight, np.zeros((3, 2)))
    assert np.allclose(found.bias, 4.0)
    assert found.missed == 0
