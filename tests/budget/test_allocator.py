"""The allocator against brute force and against an independent MILP solver."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from steelyard.budget.allocator import Allocation, allocate, cheapest_improving_step, smallest
from steelyard.budget.curve import Curve, Point, total
from steelyard.errors import UserError

points = st.lists(st.tuples(st.integers(1, 60), st.floats(0, 100, allow_nan=False)), min_size=1, max_size=5).map(
    lambda pairs: tuple(Point(b, d, str(b)) for b, d in pairs)
)
problems = st.lists(points, min_size=1, max_size=6).map(
    lambda groups: [Curve(f"g{k}", group) for k, group in enumerate(groups)]
)


def brute_force(curves: list[Curve], budget: int) -> float:
    best = np.inf
    for choice in itertools.product(*(range(len(curve.points)) for curve in curves)):
        nbytes, damage = total(curves, choice)
        if nbytes <= budget:
            best = min(best, damage)
    return best


def by_milp(curves: list[Curve], budget: int) -> float:
    damage = np.array([p.damage for c in curves for p in c.points])
    nbytes = np.array([[p.nbytes for c in curves for p in c.points]], dtype=float)
    one_of_each = np.zeros((len(curves), len(damage)))
    start = 0
    for k, curve in enumerate(curves):
        one_of_each[k, start : start + len(curve.points)] = 1
        start += len(curve.points)
    scale = damage.max()
    result = milp(
        damage / scale,
        constraints=[LinearConstraint(nbytes, -np.inf, budget), LinearConstraint(one_of_each, 1, 1)],
        integrality=np.ones(len(damage)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    assert result.success
    return float(result.fun) * scale


def model_like(seed: int, groups: int) -> list[Curve]:
    """Curves shaped like a model's: damage falls about fourfold a bit, sizes repeat between layers."""
    draw = np.random.default_rng(seed)
    curves = []
    for k in range(groups):
        weights = int(draw.choice([65_536, 131_072, 196_608, 589_824]))
        sensitivity = float(np.exp(draw.normal(0, 1.5)))
        chosen = []
        for bits in (2, 3, 4, 5, 6, 8):
            for overhead in (0.125, 0.25, 0.5):
                nbytes = int(weights * (bits + overhead) / 8) + int(draw.integers(90, 120))
                damage = sensitivity * 4.0 ** -(bits + 1.5 * overhead) * float(np.exp(draw.normal(0, 0.2)))
                chosen.append(Point(nbytes, damage, f"{bits}+{overhead}"))
        chosen.append(Point(weights * 2, 0.0, "bf16"))
        curves.append(Curve(f"g{k}", tuple(chosen)))
    return curves


def check(curves: list[Curve], budget: int, result: Allocation, best: float) -> None:
    nbytes, damage = total(curves, result.choice)
    assert nbytes == result.nbytes <= budget
    assert damage == result.damage
    assert result.optimal
    assert damage == pytest.approx(best, rel=1e-9, abs=1e-12)
    assert result.bound <= best + 1e-9 * (1 + abs(best))
    step = cheapest_improving_step(curves, result.choice)
    assert step is None or step > budget - nbytes


@settings(max_examples=300, deadline=None)
@given(problems, st.floats(0, 1))
def test_equals_brute_force(curves: list[Curve], share: float) -> None:
    floor = smallest(curves)
    ceiling = sum(max(p.nbytes for p in curve.points) for curve in curves)
    budget = floor + int(share * (ceiling - floor))
    check(curves, budget, allocate(curves, budget), brute_force(curves, budget))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bits", [2.3, 3.0, 4.7])
def test_equals_an_independent_milp_solver(seed: int, bits: float) -> None:
    curves = model_like(seed, groups=28)
    full = sum(max(p.nbytes for p in curve.points) for curve in curves)
    budget = int(full * bits / 16)
    check(curves, budget, allocate(curves, budget), by_milp(curves, budget))


def test_large_model_is_proved_optimal() -> None:
    curves = model_like(11, groups=320)
    budget = int(sum(max(p.nbytes for p in curve.points) for curve in curves) * 3.3 / 16)
    result = allocate(curves, budget)
    assert result.optimal
    assert result.nbytes <= budget
    assert result.damage - result.bound < 1e-3 * result.damage


def test_too_small_a_budget_names_size_and_tensor() -> None:
    curves = [Curve("small", (Point(10, 1.0, "int2"),)), Curve("large", (Point(90, 1.0, "int3"),))]
    expected = r"smallest feasible size is 100 bytes.*set by large.*90 bytes as int3"
    with pytest.raises(UserError, match=expected):
        allocate(curves, 99)


def test_more_budget_never_hurts() -> None:
    curves = model_like(3, groups=12)
    floor = smallest(curves)
    damages = [allocate(curves, floor + step * 50_000).damage for step in range(12)]
    assert damages == sorted(damages, reverse=True)
