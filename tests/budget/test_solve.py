"""The choice against an exact size that is not additive, by brute force."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.budget.curve import Curve, Point, total
from steelyard.budget.solve import solve
from steelyard.errors import UserError

points = st.lists(st.tuples(st.integers(40, 200), st.integers(0, 1000)), min_size=1, max_size=4).map(
    lambda pairs: tuple(Point(b, d / 10, str(b)) for b, d in pairs)
)
problems = st.lists(points, min_size=1, max_size=5).map(
    lambda groups: [Curve(f"g{k}", group) for k, group in enumerate(groups)]
)


def exact_of(curves: list[Curve]):
    """A size like that of safetensors: digits of the running offset, padding to eight, a prefix."""

    def exact(choice) -> int:
        offset = 0
        header = 30
        for curve, index in zip(curves, choice, strict=True):
            payload = curve.points[index].nbytes - 6
            offset += payload
            header += len(str(offset)) + 2
        return 8 + (header + 7) // 8 * 8 + offset

    return exact


@settings(max_examples=200, deadline=None)
@given(problems, st.floats(0, 1))
def test_never_above_the_budget_and_no_step_left(curves: list[Curve], share: float) -> None:
    exact = exact_of(curves)
    sizes = {
        choice: (exact(choice), total(curves, choice)[1])
        for choice in itertools.product(*(range(len(c.points)) for c in curves))
    }
    low, high = min(size for size, _ in sizes.values()), max(size for size, _ in sizes.values())
    cheapest = exact(tuple(c.cheapest() for c in curves))
    budget = cheapest + int(share * max(high - low, 0))
    solution = solve(curves, budget, exact)
    assert sizes[solution.choice] == (solution.nbytes, solution.damage)
    assert solution.nbytes <= budget
    assert solution.slack == budget - solution.nbytes
    best = min(damage for size, damage in sizes.values() if size <= budget)
    assert solution.bound <= best + 1e-9
    # Padding to eight bytes can hide one near tie; nothing within a whole pad of the budget is missed.
    assert (
        solution.damage
        <= min((damage for size, damage in sizes.values() if size <= budget - 24), default=float("inf")) + 1e-9
    )
    improving = [
        sizes[(*solution.choice[:k], i, *solution.choice[k + 1 :])][0] - solution.nbytes
        for k, curve in enumerate(curves)
        for i, point in enumerate(curve.points)
        if point.damage < curve.points[solution.choice[k]].damage
    ]
    assert all(step > solution.slack for step in improving)
    assert solution.next_step == (min(improving) if improving else None)


def test_impossible_budget_says_what_is_feasible() -> None:
    curves = [
        Curve("model.embed_tokens", (Point(900, 1.0, "int2 g128"),)),
        Curve("b", (Point(50, 0.0, "BF16"),)),
    ]
    exact = exact_of(curves)
    with pytest.raises(UserError, match=rf"{exact((0, 0)):,} bytes.*model.embed_tokens at int2 g128"):
        solve(curves, 500, exact)
