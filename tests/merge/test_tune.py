"""Searching recipes: the space, the strategy, resuming, the front."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.edits.merge.search.evolution import Evolution
from steelyard.edits.merge.search.run import SearchOptions, pareto, search
from steelyard.edits.merge.search.space import Range, Space
from steelyard.errors import UserError

RECIPE = {
    "merge_method": "linear",
    "models": [{"model": "a", "parameters": {"weight": 0.5}}, {"model": "b"}],
    "parameters": {"weight": 1.0},
}


def distance(recipe: Mapping[str, Any]) -> dict[str, float]:
    """Losses least at weights 0.8 and 0.3, and of another task at 0.2 and 0.3."""
    a, b = (each["parameters"]["weight"] for each in recipe["models"])
    return {"x": 1 + (a - 0.8) ** 2 + (b - 0.3) ** 2, "y": 1 + (a - 0.2) ** 2 + (b - 0.3) ** 2}


def test_the_recipes_own_numbers_are_the_start_and_any_point_can_be_written() -> None:
    space = Space(RECIPE, {"weight": Range(0, 2)})
    assert space.names == ["weight of a", "weight of b"]
    assert space.start().tolist() == [0.25, 0.5]
    assert [m["parameters"]["weight"] for m in space.recipe([0.25, 0.5])["models"]] == [0.5, 1.0]
    gradient = Space(RECIPE, {"weight": Range(0, 1, 3)})
    assert gradient.recipe([0, 0.5, 1, 1, 1, 0])["models"][0]["parameters"]["weight"] == [0.0, 0.5, 1.0]
    assert gradient.names[2] == "weight[2] of a" and "parameters" not in RECIPE["models"][1]


def test_the_base_is_not_searched() -> None:
    recipe = {**RECIPE, "merge_method": "consensus", "base_model": "b"}
    assert Space(recipe, {"threshold": Range(0, 1), "scale": Range(0, 2)}).names == ["threshold of a", "scale"]


@pytest.mark.parametrize("text", ["weight", "weight=1", "weight=1:0", "weight=0:inf", "=0:1", "w=0:1:0", "w=a:b"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no range to search"):
        Range.parse(text)


def test_ranges_and_unknown_parameters() -> None:
    assert Range.parse("density=0.1:1:5") == ("density", Range(0.1, 1.0, 5))
    with pytest.raises(UserError, match="linear has no parameter 'density' to search; it has normalize, weight"):
        Space(RECIPE, {"density": Range(0, 1)})


def test_evolution_finds_the_bottom_of_a_tilted_bowl() -> None:
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    scales = np.array([1, 3, 10, 30, 100])
    bottom = np.full(5, 0.4)
    evolution = Evolution(np.full(5, 0.8), 0.2, seed=3)
    for _ in range(120):
        points = evolution.ask()
        assert points.min() >= 0 and points.max() <= 1
        evolution.tell(points, (((points - bottom) @ axes) ** 2 @ scales))
    best = min(((p - bottom) @ axes) ** 2 @ scales for p in evolution.ask())
    assert best < 1e-8


def test_search_beats_the_start_and_the_front_is_between_the_tasks() -> None:
    space = Space(RECIPE, {"weight": Range(0, 1)})
    found = search(space, distance, SearchOptions(evaluations=80))
    assert found.evaluations[0].score == 1 and len(found.evaluations) == 80
    weights = [m["parameters"]["weight"] for m in found.recipe["models"]]
    assert weights[1] == pytest.approx(0.3, abs=0.05)
    assert all(each.score >= found.evaluations[found.best].score for each in found.evaluations)
    losses = [tuple(found.evaluations[number].losses.values()) for number in found.front]
    assert losses == sorted(losses) and [y for _, y in losses] == sorted((y for _, y in losses), reverse=True)


def test_a_resumed_search_measures_only_what_is_missing_and_ends_alike(tmp_path: Path) -> None:
    space = Space(RECIPE, {"weight": Range(0, 1)})
    whole = search(space, distance, SearchOptions(evaluations=30))
    journal, calls = tmp_path / "journal.jsonl", []

    def counted(recipe: Mapping[str, Any]) -> dict[str, float]:
        calls.append(recipe)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return distance(recipe)

    with pytest.raises(KeyboardInterrupt):
        search(space, counted, SearchOptions(evaluations=30), journal=journal)
    with open(journal, "a") as file:
        file.write('{"point": [0.1')  # cut short by a kill
    with pytest.raises(UserError, match="add --resume"):
        search(space, counted, SearchOptions(evaluations=30), journal=journal)
    resumed = search(space, counted, SearchOptions(evaluations=30), journal=journal, resume=True)
    assert (len(calls), resumed.resumed) == (13 + 18, 12)
    assert resumed.evaluations == whole.evaluations and resumed.recipe == whole.recipe
    assert len(journal.read_text().splitlines()) == 31
    with pytest.raises(UserError, match="belongs to another search"):
        search(space, distance, SearchOptions(seed=1), journal=journal, resume=True)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=25))
def test_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = pareto(points)
    beaten = {p for p in points for q in points if q[0] <= p[0] and q[1] <= p[1] and q != p}
    assert {points[number] for number in front} == set(points) - beaten
    assert len(front) == len({points[number] for number in front})
