"""Soups: which models are averaged, and that a recipe in memory is what it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.merge.experts import load, write_experts

from steelyard.edits.merge.candidates import Candidates
from steelyard.edits.merge.soups import along_run, barriers, greedy, uniform
from steelyard.errors import UserError


def test_average_in_memory_is_the_mean_of_the_files(tmp_path: Path) -> None:
    _, experts = write_experts(tmp_path)
    with Candidates() as candidates:
        source = candidates.source(uniform(list(experts.values())).recipe())
        loaded = [load(folder) for folder in experts.values()]
        assert sorted(source.names) == sorted(loaded[0])
        for name in source.names:
            expected = np.mean([weights[name].astype(np.float64) for weights in loaded], axis=0)
            np.testing.assert_allclose(source.tensor(name), expected, rtol=1e-5, atol=1e-7)


def test_the_average_of_one_expert_is_that_expert(tmp_path: Path) -> None:
    _, experts = write_experts(tmp_path, count=1)
    with Candidates() as candidates:
        source = candidates.source(uniform([experts["task0"]]).recipe())
        for name, value in load(experts["task0"]).items():
            np.testing.assert_array_equal(source.tensor(name), value)


def test_candidates_name_everything_wrong_with_a_recipe(tmp_path: Path) -> None:
    _, experts = write_experts(tmp_path, count=1)
    with Candidates() as candidates, pytest.raises(UserError, match="did you mean linear"):
        candidates.source({**uniform([experts["task0"]]).recipe(), "merge_method": "linaer"})


def losses_of(points: Mapping[str, np.ndarray], target: np.ndarray) -> Any:
    """A judge that sees models as points and measures how far their average is from a target."""

    def measure(recipe: Mapping[str, Any]) -> dict[str, float]:
        weights = {each["model"]: each["parameters"]["weight"] for each in recipe["models"]}
        middle = sum(weight * points[name] for name, weight in weights.items()) / sum(weights.values())
        return {axis: float((middle[i] - target[i]) ** 2) for i, axis in enumerate("xy")}

    return measure


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_greedy_soup_never_loses_to_its_best_model(seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    points = {f"m{i}": draw.standard_normal(2) for i in range(count)}
    measure = losses_of(points, np.zeros(2))
    soup = greedy(list(points), measure)
    assert sum(soup.losses.values()) / 2 <= min(soup.alone.values()) + 1e-12
    assert sum(soup.weights.values()) == pytest.approx(1)
    # By hand: from the best to the worst, each is kept if the mean with it is no worse.
    order = sorted(points, key=lambda name: soup.alone[name])
    kept = [order[0]]
    for name in order[1:]:
        with_it = measure(uniform([*kept, name]).recipe())
        if sum(with_it.values()) <= sum(measure(uniform(kept).recipe()).values()):
            kept.append(name)
    assert list(soup.weights) == kept


def test_barrier_of_a_bowl_is_below_zero_and_of_a_ridge_above() -> None:
    points = {"a": np.array([-1.0, 0.0]), "b": np.array([1.0, 0.0])}
    measure = losses_of(points, np.zeros(2))
    assert barriers(list(points), measure)["a", "b"] == pytest.approx(-0.5)
    ridge = barriers(list(points), lambda recipe: {"x": 1 - measure(recipe)["x"]})
    assert ridge["a", "b"] == pytest.approx(1.0)


def test_average_along_a_run_is_the_moving_average() -> None:
    values = np.random.default_rng(0).standard_normal(5)
    moving = values[0]
    for value in values[1:]:
        moving = 0.7 * moving + 0.3 * value
    soup = along_run([f"s{i}" for i in range(5)], decay=0.7)
    assert sum(w * v for w, v in zip(soup.weights.values(), values, strict=True)) == pytest.approx(moving)
    assert set(along_run(["a", "b"]).weights.values()) == {0.5}
    with pytest.raises(UserError, match="between 0 and 1, got"):
        along_run(["a"], decay=1.5)
    with pytest.raises(UserError, match="at least one model"):
        uniform([])
