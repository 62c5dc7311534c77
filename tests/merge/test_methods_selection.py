"""Ranks by histogram against sorting, and draws by position: any cut, any order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from merge.cutting import merged
from steelyard.edits.merge.methods._selection import Selection, ordered, value_of

# Few different magnitudes, so that ties are everywhere; infinities do not reach methods.
_TIED = arrays(
    np.float32, st.integers(1, 60), elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 1e-40, 3e38])
)
_ANY = arrays(np.float32, st.integers(1, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def _largest(delta: np.ndarray, count: int) -> np.ndarray:
    """Return what remains of a vector when the largest magnitudes are kept, the earlier of equal ones first."""
    order = np.lexsort((np.arange(delta.size), -np.abs(delta)))
    kept = np.zeros_like(delta)
    kept[order[:count]] = delta[order[:count]]
    return kept


@settings(max_examples=150, deadline=None)
@given(delta=_TIED | _ANY, density=st.floats(0, 1.2), entries=st.integers(1, 70))
def test_the_largest_are_kept(delta: np.ndarray, density: float, entries: int) -> None:
    tensors = np.stack([np.zeros_like(delta), delta])
    per_model = {"weight": [1.0], "density": [density]}
    found = merged("ties", tensors, 0, {}, per_model, entries=entries)
    count = delta.size if density >= 1 else max(1, int(density * delta.size)) if density > 0 else 0
    np.testing.assert_array_equal(found, _largest(delta, count))


@settings(max_examples=150, deadline=None)
@given(
    delta=_TIED | _ANY,
    density=st.floats(0, 0.99),
    gamma=st.floats(0, 1),
    entries=st.integers(1, 70),
)
def test_the_middling_are_kept(delta: np.ndarray, density: float, gamma: float, entries: int) -> None:
    tensors = np.stack([np.zeros_like(delta), delta])
    per_model = {"weight": [1.0], "density": [density], "gamma": [gamma]}
    found = merged("breadcrumbs", tensors, 0, {}, per_model, entries=entries)
    kept = int(density * delta.size)
    bottom = max(0, delta.size - kept - int(gamma * delta.size))
    above = _largest(delta, delta.size - bottom - kept)
    expected = _largest(delta, delta.size - bottom) - above
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(values=_ANY, count=st.integers(1, 60), entries=st.integers(1, 70))
def test_the_threshold_is_the_number_of_that_rank(values: np.ndarray, count: int, entries: int) -> None:
    count = min(count, values.size)
    selection = Selection(values.size, [[count]], exact=True)
    keys, starts = ordered(values), range(0, values.size, entries)
    for number in range(selection.rounds):
        seen = {
            start: selection.observe(number, start, [keys[start : start + entries]]) for start in reversed(starts)
        }
        selection.conclude(number, [seen[start] for start in starts])
    assert value_of(selection.cuts[0][0].threshold) == np.sort(values)[::-1][count - 1]


def test_a_tie_at_the_threshold_goes_to_the_first_positions() -> None:
    delta = np.array([1, 2, -1, 1, 3, 1], np.float32)
    tensors = np.stack([np.zeros_like(delta), delta])
    found = merged("ties", tensors, 0, {}, {"density": [4 / 6]}, entries=2)
    np.testing.assert_array_equal(found, [1, 2, -1, 0, 3, 0])


@pytest.mark.parametrize("density", [0.1, 0.5, 0.93])
def test_many_entries_of_nearly_one_magnitude(density: float) -> None:
    """All share the upper 16 bits of their keys, and most have equals: the second round sees every entry."""
    steps = np.random.default_rng(2).integers(0, 300, 5000)
    delta = (1 + steps * 2.0**-17).astype(np.float32) * np.where(steps % 2, 1, -1).astype(np.float32)
    tensors = np.stack([np.zeros_like(delta), delta])
    found = merged("ties", tensors, 0, {}, {"density": [density]}, entries=1300)
    np.testing.assert_array_equal(found, _largest(delta, int(density * 5000)))


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear", "darex"])
def test_draws_do_not_depend_on_the_cut(method: str) -> None:
    tensors = np.random.default_rng(0).standard_normal((3, 20, 30)).astype(np.float32)
    options = {} if method == "darex" else {"rescale": False}
    runs = [
        merged(method, tensors, 0, options, {"density": [0.5, 0.4]}, entries=entries, seed=3)
        for entries in (31, 90, 600)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])
    other = merged(method, tensors, 0, options, {"density": [0.5, 0.4]}, seed=4)
    assert (other != runs[0]).mean() > 0.3


def test_draws_of_experts_and_entries_are_independent() -> None:
    delta = np.ones((2, 400, 500), np.float32)
    tensors = np.concatenate([np.zeros((1, 400, 500), np.float32), delta])
    per_model = {"density": [0.3, 0.3], "weight": [1.0, 2.0]}
    found = merged("dare_linear", tensors, 0, {"rescale": False}, per_model)
    kept = np.stack([np.isin(found, (1, 3)), np.isin(found, (2, 3))])
    assert np.abs(kept.mean(axis=(1, 2)) - 0.3).max() < 5 * np.sqrt(0.21 / 200_000)
    chances = {
        "both experts": (kept[0] & kept[1]).mean(),
        "neighbours in a row": (kept[0, :, 1:] & kept[0, :, :-1]).mean(),
        "neighbours in a column": (kept[0, 1:] & kept[0, :-1]).mean(),
    }
    for chance in chances.values():
        assert abs(chance - 0.09) < 5 * np.sqrt(0.09 * 0.91 / 200_000)


def test_rescaling_restores_the_sum_of_magnitudes() -> None:
    delta = np.random.default_rng(1).standard_normal((50, 60)).astype(np.float32)
    tensors = np.stack([np.zeros_like(delta), delta])
    for method in ("dare_linear", "della_linear"):
        found = merged(method, tensors, 0, {}, {"density": [0.5]}, entries=600)
        assert (found == 0).mean() == pytest.approx(0.5, abs=0.05)
        assert np.abs(found).sum() == pytest.approx(np.abs(delta).sum(), rel=1e-5)


def test_della_ranks_along_the_second_axis_of_a_stack() -> None:
    delta = np.arange(1, 7, dtype=np.float32)[None, :, None] * np.ones((20, 1, 30), np.float32)
    tensors = np.stack([np.zeros_like(delta), delta])
    per_model = {"density": [0.5], "epsilon": [0.4]}
    kept = merged("della_linear", tensors, 0, {"rescale": False}, per_model) != 0
    expected = 0.1 + 0.8 * np.arange(6) / 5
    np.testing.assert_allclose(kept.mean(axis=(0, 2)), expected, atol=5 * np.sqrt(0.25 / 600))
