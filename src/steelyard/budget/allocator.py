"""The one allocator: the choice with the least total damage under a budget of bytes.

A multiple-choice knapsack: of each curve exactly one point, the sum of bytes at most the budget B, the sum
of damages least. The Lagrangian relaxation prices bytes at a multiplier `price`; on the convex hulls its best
price is found exactly by walking the hull segments in order of slope. For that price every point has a
reduced cost r >= 0, and for any complete choice

    damage = bound + sum(r) + price * slack,        slack = B - bytes >= 0,

so a point with r above (best known damage - bound) is in no better choice. What is left after that test is
small, and a dynamic program over its non-dominated (bytes, r) states finishes exactly (Pisinger 1995 calls
what is left the core; the bounds are those of Dyer and Zemel for the linear relaxation).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.budget.curve import Curve, total
from steelyard.errors import UserError
from steelyard.units import format_size

# Non-dominated states kept at once before the finish settles for its best choice and reports the gap.
STATE_LIMIT = 400_000


@dataclass(frozen=True)
class Allocation:
    """The chosen points.

    Attributes:
        choice: index of the chosen point of each curve.
        nbytes: sum of the chosen bytes.
        damage: sum of the chosen damages.
        bound: no choice under the budget has less damage than this (linear relaxation).
        optimal: whether `choice` was proved to be the best one.
        price: damage saved per further byte, at the margin.
    """

    choice: tuple[int, ...]
    nbytes: int
    damage: float
    bound: float
    optimal: bool
    price: float


def smallest(curves: Sequence[Curve]) -> int:
    """Return the bytes of the smallest choice there is."""
    return sum(curve.points[curve.cheapest()].nbytes for curve in curves)


def allocate(curves: Sequence[Curve], budget: int) -> Allocation:
    """Return the choice of least total damage whose bytes are at most `budget`.

    Raises:
        UserError: if even the smallest choice is above the budget.

    Example:
        >>> from steelyard.budget.curve import Point
        >>> a = Curve("a", (Point(2, 8.0, "2"), Point(4, 1.0, "4")))
        >>> b = Curve("b", (Point(2, 5.0, "2"), Point(4, 2.0, "4")))
        >>> allocate([a, b], 6).choice
        (1, 0)
    """
    floor = smallest(curves)
    if floor > budget:
        raise UserError(
            f"a budget of {budget:,} bytes is too small: the smallest feasible size is {floor:,} bytes "
            f"({format_size(floor)}), set by {_heaviest(curves)}"
        )
    price, choice = _relax(curves, budget)
    bound = _dual_value(curves, budget, price)
    choice = _fill(curves, choice, budget)
    return _finish(curves, budget, price, bound, choice)


def cheapest_improving_step(curves: Sequence[Curve], choice: Sequence[int]) -> int | None:
    """Return the fewest further bytes that would lower the damage of one curve; None if nothing would."""
    steps = [
        point.nbytes - curve.points[index].nbytes
        for curve, index in zip(curves, choice, strict=True)
        for point in curve.points
        if point.damage < curve.points[index].damage
    ]
    return min((step for step in steps if step > 0), default=None)


def _heaviest(curves: Sequence[Curve]) -> str:
    curve = max(curves, key=lambda item: item.points[item.cheapest()].nbytes)
    point = curve.points[curve.cheapest()]
    return f"{curve.group}, which takes {point.nbytes:,} bytes as {point.label}"


def _relax(curves: Sequence[Curve], budget: int) -> tuple[float, list[int]]:
    """Walk the hull segments by falling saving per byte; return the price of the first that does not fit."""
    hulls = [curve.hull() for curve in curves]
    choice = [hull[0] for hull in hulls]
    remaining = budget - sum(c.points[i].nbytes for c, i in zip(curves, choice, strict=True))
    segments = [
        (
            (curve.points[low].damage - curve.points[high].damage)
            / (curve.points[high].nbytes - curve.points[low].nbytes),
            k,
            high,
            curve.points[high].nbytes - curve.points[low].nbytes,
        )
        for k, (curve, hull) in enumerate(zip(curves, hulls, strict=True))
        for low, high in itertools.pairwise(hull)
    ]
    segments.sort(key=lambda segment: (-segment[0], segment[1], segment[3]))
    for saving, k, high, step in segments:
        if step > remaining:
            return saving, choice
        choice[k] = high
        remaining -= step
    return 0.0, choice


def _dual_value(curves: Sequence[Curve], budget: int, price: float) -> float:
    cheapest = (min(p.damage + price * p.nbytes for p in curve.points) for curve in curves)
    return sum(cheapest) - price * budget


def _fill(curves: Sequence[Curve], choice: Sequence[int], budget: int) -> list[int]:
    """Spend what the relaxation left over, best saving per byte first: the first good complete choice."""
    filled = list(choice)
    remaining = budget - total(curves, filled)[0]
    while True:
        best: tuple[float, int, int] | None = None
        for k, (curve, index) in enumerate(zip(curves, filled, strict=True)):
            held = curve.points[index]
            for other, point in enumerate(curve.points):
                step = point.nbytes - held.nbytes
                saving = held.damage - point.damage
                if saving <= 0 or step > remaining:
                    continue
                value = saving / max(step, 1e-9)
                if best is None or value > best[0]:
                    best = (value, k, other)
        if best is None:
            return filled
        _, k, other = best
        remaining -= curves[k].points[other].nbytes - curves[k].points[filled[k]].nbytes
        filled[k] = other


def _finish(
    curves: Sequence[Curve], budget: int, price: float, bound: float, incumbent: Sequence[int]
) -> Allocation:
    """Dynamic program over the points whose reduced cost still fits in the gap."""
    best_bytes, best_damage = total(curves, incumbent)
    best = tuple(incumbent)
    # Rounding in `bound` must never discard the true optimum.
    tolerance = 1e-12 * (abs(best_damage) + abs(price) * budget + 1e-300)
    gap = best_damage - bound + tolerance

    kept: list[list[int]] = []
    reduced: list[list[float]] = []
    for curve in curves:
        costs = [p.damage + price * p.nbytes for p in curve.points]
        least = min(costs)
        alive = [i for i, cost in enumerate(costs) if cost - least <= gap]
        kept.append(alive)
        reduced.append([costs[i] - least for i in alive])

    order = sorted(range(len(curves)), key=lambda k: (len(kept[k]), curves[k].group))
    # Fewest bytes the groups not yet decided can take: a state above budget minus that is infeasible.
    floors = [min(curves[k].points[i].nbytes for i in kept[k]) for k in order]
    rest = np.concatenate([np.cumsum(np.array(floors[::-1], dtype=np.int64))[::-1], [0]])

    state_bytes = np.zeros(1, dtype=np.int64)
    state_cost = np.zeros(1, dtype=np.float64)
    history: list[tuple[np.ndarray, np.ndarray]] = []
    exact = True
    for position, k in enumerate(order):
        point_bytes = np.array([curves[k].points[i].nbytes for i in kept[k]], dtype=np.int64)
        point_cost = np.array(reduced[k], dtype=np.float64)
        nbytes = (state_bytes[:, None] + point_bytes[None, :]).ravel()
        cost = (state_cost[:, None] + point_cost[None, :]).ravel()
        parent = np.repeat(np.arange(len(state_bytes)), len(point_bytes))
        point = np.tile(np.arange(len(point_bytes)), len(state_bytes))
        alive_states = np.flatnonzero((cost <= gap) & (nbytes <= budget - rest[position + 1]))
        alive_states = alive_states[_front(nbytes[alive_states], cost[alive_states], price)]
        if len(alive_states) > STATE_LIMIT:
            exact = False
            alive_states = alive_states[np.argsort(cost[alive_states], kind="stable")[:STATE_LIMIT]]
        if not len(alive_states):
            # No state meets the incumbent's own bound: nothing better exists.
            return Allocation(best, best_bytes, best_damage, bound, exact, price)
        state_bytes, state_cost = nbytes[alive_states], cost[alive_states]
        history.append((parent[alive_states], point[alive_states]))

    found = _trace(curves, kept, order, history, int(np.argmin(state_cost - price * state_bytes)))
    # Savings too small for a sum of floats to show are still taken when they fit.
    found = tuple(_fill(curves, found, budget))
    found_bytes, found_damage = total(curves, found)
    if found_damage < best_damage or (found_damage == best_damage and found_bytes < best_bytes):
        best, best_bytes, best_damage = found, found_bytes, found_damage
    return Allocation(best, best_bytes, best_damage, bound, exact, price)


def _front(nbytes: np.ndarray, cost: np.ndarray, price: float) -> np.ndarray:
    """Indices of the states that no other state beats in both bytes and damage."""
    damage = cost - price * nbytes
    order = np.lexsort((damage, nbytes))
    falling = np.minimum.accumulate(damage[order])
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = damage[order][1:] < falling[:-1]
    return np.asarray(order[keep])


def _trace(
    curves: Sequence[Curve],
    kept: Sequence[Sequence[int]],
    order: Sequence[int],
    history: Sequence[tuple[np.ndarray, np.ndarray]],
    state: int,
) -> tuple[int, ...]:
    """Follow the parents of the best final state back to the choice it stands for."""
    choice = [0] * len(curves)
    for k, (parents, points) in zip(reversed(order), reversed(history), strict=True):
        choice[k] = kept[k][int(points[state])]
        state = int(parents[state])
    return tuple(choice)
