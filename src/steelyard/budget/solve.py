"""From curves to a choice whose files are within the budget to the byte.

A file's size is not quite additive: a header's JSON grows with the digits of its offsets and is padded to
eight bytes, and an index may be needed. The curves carry upper bounds of each group's share; the exact size
of a choice comes from the layout that will be written. The difference between the two is put back into the
purse until it is stable, then single steps are tried against the exact layout, so that none that would improve
the model still fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from steelyard.budget.allocator import Allocation, allocate, smallest
from steelyard.budget.curve import Curve, total
from steelyard.errors import UserError
from steelyard.units import format_size

ExactSize = Callable[[Sequence[int]], int]
"""Exact bytes on disk of a choice: every weight file with its header, and the index."""

_ROUNDS = 12


@dataclass(frozen=True)
class Solution:
    """A choice under the budget.

    Attributes:
        choice: index of the chosen point of each curve.
        nbytes: exact bytes on disk.
        damage: predicted total damage.
        bound: no choice under the budget has less predicted damage.
        optimal: the allocator proved its choice best.
        slack: budget minus nbytes.
        next_step: exact further bytes of the cheapest step that would lower the predicted damage (None:
            nothing would); always more than the slack.
    """

    choice: tuple[int, ...]
    nbytes: int
    damage: float
    bound: float
    optimal: bool
    slack: int
    next_step: int | None


def smallest_choice(curves: Sequence[Curve]) -> tuple[int, ...]:
    """Return the choice of fewest bytes."""
    return tuple(curve.cheapest() for curve in curves)


def require_feasible(curves: Sequence[Curve], exact_size: ExactSize, budget: int, way_out: str = "") -> None:
    """Refuse a budget below the smallest feasible size.

    Args:
        way_out: what else can be done than ask for more.

    Raises:
        UserError: naming that size and the tensor that sets it.
    """
    choice = smallest_choice(curves)
    size = exact_size(choice)
    if size <= budget:
        return
    heaviest = max(range(len(curves)), key=lambda k: curves[k].points[choice[k]].nbytes)
    point = curves[heaviest].points[choice[heaviest]]
    raise UserError(
        f"a budget of {budget:,} bytes is too small: the smallest feasible size is {size:,} bytes "
        f"({format_size(size)}), set by {curves[heaviest].group} at {point.label} ({point.nbytes:,} bytes); "
        f"ask for at least that{way_out and f', or {way_out}'}"
    )


def solve(curves: Sequence[Curve], budget: int, exact_size: ExactSize) -> Solution:
    """Return the least damaging choice whose exact size is at most `budget`.

    Raises:
        UserError: if even the smallest choice is above the budget.
    """
    require_feasible(curves, exact_size, budget)
    least = smallest(curves)
    allocation: Allocation | None = None
    choice = smallest_choice(curves)
    # Bytes that the additive bounds leave out (positive) or count twice (negative).
    correction = exact_size(choice) - total(curves, choice)[0]
    seen: set[int] = set()
    for _ in range(_ROUNDS):
        if correction in seen or budget - correction < least:
            break
        seen.add(correction)
        found = allocate(curves, budget - correction)
        nbytes = exact_size(found.choice)
        correction = nbytes - found.nbytes
        if nbytes <= budget and (allocation is None or found.damage < allocation.damage):
            allocation, choice = found, found.choice
    choice = _spend_rest(curves, choice, budget, exact_size)
    nbytes = exact_size(choice)
    damage = total(curves, choice)[1]
    # The relaxed problem with every byte counted at its lowest share bounds all exact choices from below.
    loosest = allocate(curves, budget - min(seen | {correction}))
    return Solution(
        choice=choice,
        nbytes=nbytes,
        damage=damage,
        bound=min(loosest.bound, damage),
        optimal=allocation is not None and allocation.optimal,
        slack=budget - nbytes,
        next_step=_cheapest_step(curves, choice, nbytes, exact_size),
    )


def _improving(curves: Sequence[Curve], choice: Sequence[int]) -> list[tuple[int, float, int, int]]:
    """All single steps that lower the damage: (further bytes, saving, curve, point), cheapest first."""
    steps = [
        (point.nbytes - curve.points[held].nbytes, curve.points[held].damage - point.damage, k, other)
        for k, (curve, held) in enumerate(zip(curves, choice, strict=True))
        for other, point in enumerate(curve.points)
        if point.damage < curve.points[held].damage
    ]
    return sorted(steps)


def _with(choice: Sequence[int], k: int, point: int) -> tuple[int, ...]:
    return (*choice[:k], point, *choice[k + 1 :])


def _spend_rest(
    curves: Sequence[Curve], choice: tuple[int, ...], budget: int, exact_size: ExactSize
) -> tuple[int, ...]:
    """Take single steps, most saving first, while the exact layout still allows one."""
    while True:
        slack = budget - exact_size(choice)
        # The bounds of two points of a group err by a few bytes at most; only near steps need the exact size.
        near = [step for step in _improving(curves, choice) if step[0] <= slack + 64]
        fitting = [
            (saving, k, point) for _, saving, k, point in near if exact_size(_with(choice, k, point)) <= budget
        ]
        if not fitting:
            return choice
        _, k, point = max(fitting)
        choice = _with(choice, k, point)


def _cheapest_step(
    curves: Sequence[Curve], choice: tuple[int, ...], nbytes: int, exact_size: ExactSize
) -> int | None:
    steps = _improving(curves, choice)
    if not steps:
        return None
    near = [step for step in steps if step[0] <= steps[0][0] + 64]
    return min(exact_size(_with(choice, k, point)) - nbytes for _, _, k, point in near)
