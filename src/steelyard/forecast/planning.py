"""From a budget to a size: the best N and D for operations, for a loss, with serving and caps counted in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.fitting import Fit
from steelyard.forecast.law import Array

_SMALLEST, _LARGEST = 1e4, 1e14
_LOSS_ROOM, _COST_ROOM = 0.002, 0.02
_DRAWN = 200


@dataclass(frozen=True)
class Goal:
    """What is asked for.

    Attributes:
        compute: operations for training and serving together; or
        loss: to reach, at the least operations.
        served: tokens that the model will read and write in its life, 2N operations each.
        largest: the most parameters that can be served.
        tokens: the most that can be trained on.
        others: further columns of the law, such as U.
    """

    compute: float | None = None
    loss: float | None = None
    served: float = 0.0
    largest: float = math.inf
    tokens: float = math.inf
    others: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.compute is None) == (self.loss is None):
            raise UserError(
                "plan: give one goal: operations (--flops, or --hours with --device) or a loss (--loss)"
            )
        for name in ("compute", "loss", "served", "largest", "tokens"):
            value = getattr(self, name)
            if value is not None and not value >= (0 if name == "served" else 1e-12):
                raise UserError(f"plan: {name} must be above zero, not {value:g}")


@dataclass(frozen=True)
class Plan:
    """A size and its data.

    Attributes:
        parameters: N.
        tokens: D.
        training: operations, 6ND.
        serving: operations, 2N for each token served.
        loss: predicted.
        basin: sizes that lose at most 0.2 % at the same operations; for a loss, that cost at most 2 % more.
        interval: of the best N over resampled fits, 90 %.
        bound: which cap the choice lies on, "" where it is free.
    """

    parameters: float
    tokens: float
    training: float
    serving: float
    loss: float
    basin: tuple[float, float]
    interval: tuple[float, float]
    bound: str = ""


def plan(found: Fit, goal: Goal, coordinates: Array | None = None) -> Plan:
    """Return the best size for a goal.

    Args:
        found: a fit of a law with N and D among its columns.
        goal: what is asked for.
        coordinates: of resampled fits, for the interval.

    Raises:
        UserError: if the law has no N and D, lacks another column, or the goal cannot be reached.
    """
    if not {"N", "D"} <= set(found.law.columns):
        raise UserError(f"law {found.law.name} has no N and D to choose; fit one that has, such as chinchilla")
    missing = set(found.law.columns) - {"N", "D"} - set(goal.others)
    if missing:
        raise UserError(
            f"law {found.law.name} also needs {', '.join(sorted(missing))}; say it with --with NAME=VALUE"
        )
    low, high = _SMALLEST, min(goal.largest, _LARGEST)
    for _ in range(3):
        sizes = np.geomspace(low, high, 401)
        tokens, loss, cost = _options(found, goal, sizes, found.coordinates)
        best = _best(goal, loss, cost)
        low, high = sizes[max(best - 2, 0)], sizes[min(best + 2, 400)]
    n, d = float(sizes[best]), float(tokens[best])
    bound = "size" if n >= goal.largest * 0.999 else "tokens" if d >= goal.tokens * 0.999 else ""
    if not bound and (n <= _SMALLEST * 1.01 or n >= _LARGEST * 0.99):
        raise UserError(
            f"law {found.law.name} as fitted has no best size: its loss falls towards an edge of all sizes"
        )
    everything = np.geomspace(_SMALLEST, min(goal.largest, _LARGEST), 2001)
    _, losses, costs = _options(found, goal, everything, found.coordinates)
    aim, room = (losses, _LOSS_ROOM) if goal.loss is None else (costs, _COST_ROOM)
    near = aim <= (loss if goal.loss is None else cost)[best] * (1 + room)
    basin = (float(everything[near].min()), float(everything[near].max())) if near.any() else (n, n)
    drawn = [n]
    for place in coordinates[:_DRAWN] if coordinates is not None else ():
        _, losses, costs = _options(found, goal, everything, place)
        if np.isfinite(losses).any():
            drawn.append(float(everything[_best(goal, losses, costs)]))
    ends = np.percentile(drawn, (5, 95))
    interval = (float(ends[0]), float(ends[1]))
    return Plan(n, d, 6 * n * d, 2 * n * goal.served, float(loss[best]), basin, interval, bound)


def _options(found: Fit, goal: Goal, sizes: Array, place: Array) -> tuple[Array, Array, Array]:
    """Tokens, losses and operations of every size; infinite where the goal cannot be met."""
    if goal.compute is not None:
        tokens = (goal.compute - 2 * sizes * goal.served) / (6 * sizes)
        tokens = np.minimum(np.where(tokens > 1, tokens, np.nan), goal.tokens)
        loss = _losses(found, goal, sizes, np.where(np.isnan(tokens), 1.0, tokens), place)
        loss = np.where(np.isnan(tokens), np.inf, loss)
    else:
        tokens, loss = _tokens_for(found, goal, sizes, place)
    cost = np.where(np.isfinite(loss), 6 * sizes * tokens + 2 * sizes * goal.served, np.inf)
    return tokens, loss, cost


def _tokens_for(found: Fit, goal: Goal, sizes: Array, place: Array) -> tuple[Array, Array]:
    """The fewest tokens that reach the loss, by bisection: more tokens never hurt in these laws."""
    wanted = goal.loss or 0.0
    low, high = np.full(len(sizes), math.log(1e3)), np.full(len(sizes), math.log(min(goal.tokens, 1e20)))
    reached = _losses(found, goal, sizes, np.exp(high), place) <= wanted
    for _ in range(60):
        middle = 0.5 * (low + high)
        enough = _losses(found, goal, sizes, np.exp(middle), place) <= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.exp(high), np.where(reached, wanted, np.inf)


def _losses(found: Fit, goal: Goal, sizes: Array, tokens: Array, place: Array) -> Array:
    columns = {"N": sizes, "D": tokens, **{name: np.full(len(sizes), v) for name, v in goal.others.items()}}
    if "U" in columns:
        columns["U"] = np.minimum(columns["U"], tokens)
    with np.errstate(all="ignore"):
        loss = found.predict({name: columns[name] for name in found.law.columns}, place)
    return np.where(np.isfinite(loss), loss, np.inf)


def _best(goal: Goal, loss: Array, cost: Array) -> int:
    aim = loss if goal.loss is None else cost
    if not np.isfinite(aim).any():
        if goal.loss is None:
            raise UserError("plan: serving alone takes more operations than there are; raise --flops or serve less")
        raise UserError(f"plan: no size reaches a loss of {goal.loss:g} with this law and these caps; ask for more")
    return int(np.argmin(aim))


@dataclass(frozen=True)
class Audit:
    """A run held against the frontier.

    Attributes:
        loss: predicted for it.
        best: least loss for its operations.
        parameters: of the best run for them.
        tokens: of that.
        excess: relative loss above the best.
        wasted: share of its operations that a run of the best shape would not need for the same loss.
        ratio: its tokens for each parameter.
        best_ratio: those of the best run.
        surprise: measured less predicted, relative; None where nothing was measured.
    """

    loss: float
    best: float
    parameters: float
    tokens: float
    excess: float
    wasted: float
    ratio: float
    best_ratio: float
    surprise: float | None


def audit(
    found: Fit, n: float, d: float, measured: float | None = None, others: Mapping[str, float] | None = None
) -> Audit:
    """Hold a run against the frontier of a fit.

    Args:
        found: the fit.
        n: parameters.
        d: tokens.
        measured: its loss, where it is known.
        others: further columns of the law.
    """
    at = {"N": n, "D": d, **(others or {})}
    loss = float(found.predict({name: np.array([at[name]]) for name in found.law.columns})[0])
    best = plan(found, Goal(compute=6 * n * d, others=others or {}))
    same = plan(found, Goal(loss=loss, others=others or {}))
    return Audit(
        loss,
        best.loss,
        best.parameters,
        best.tokens,
        loss / best.loss - 1,
        max(0.0, 1 - same.training / (6 * n * d)),
        d / n,
        best.tokens / best.parameters,
        None if measured is None else measured / loss - 1,
    )
