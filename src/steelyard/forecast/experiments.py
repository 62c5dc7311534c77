"""Which runs to do next: those that make the forecast one is after surest, for the operations they take.

The variance of a forecast follows from the derivatives of the runs done so far. A further run takes a part of it
away that is known before it is done (a rank-one update), so runs can be chosen one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.fitting import Fit
from steelyard.forecast.law import Array

THRIFT = 0.2
_RIDGE = 1e-8


@dataclass(frozen=True)
class Proposal:
    """One run to do.

    Attributes:
        at: its columns.
        cost: operations.
        error: standard error of the forecast of the target after it, of log loss.
    """

    at: Mapping[str, float]
    cost: float
    error: float


@dataclass(frozen=True)
class Design:
    """Runs in the order to do them.

    Attributes:
        before: standard error of the forecast now, of log loss.
        proposals: the runs.
    """

    before: float
    proposals: tuple[Proposal, ...]


def candidates(found: Fit, beyond: float = 2.0, points: int = 9) -> dict[str, Array]:
    """Return runs that could be done: a grid over the fitted ones, a factor `beyond` in each direction.

    Raises:
        UserError: if the law has more than three columns.
    """
    if len(found.law.columns) > 3:
        raise UserError(f"law {found.law.name} has too many columns for a grid of runs")
    grids = []
    for values in found.rows.columns.values():
        low, high = float(values.min()), float(values.max())
        grids.append(np.geomspace(low / beyond, high * beyond, points) if low > 0 else np.unique(values))
    mesh = np.meshgrid(*grids, indexing="ij")
    return {name: axis.ravel() for name, axis in zip(found.law.columns, mesh, strict=True)}


def propose(
    found: Fit,
    pool: Mapping[str, Array],
    cost: Array,
    budget: float,
    target: Mapping[str, float],
    most: int = 20,
    thrift: float = THRIFT,
) -> Design:
    """Choose runs for a budget.

    Args:
        found: the fit so far.
        pool: columns of the runs that could be done, each [runs].
        cost: operations of each, [runs].
        budget: operations in all.
        target: the run whose loss is to be forecast.
        most: runs at most.
        thrift: power of the operations that a gain is divided by: at 1 the smallest runs win, at 0 the largest.

    Raises:
        UserError: if no run fits the budget.
    """
    if not (cost <= budget).any():
        raise UserError(
            f"next: the cheapest run takes {cost.min():.3g} operations and the budget is {budget:.3g}; "
            "raise --flops"
        )
    rows = _slopes(found, pool)
    aim = _slopes(found, {name: np.array([target[name]]) for name in found.law.columns})[:, 0]
    here = _slopes(found, found.rows.columns)
    noise = (
        float(np.median(np.abs(found.residuals)))
        / 0.6745
        * np.sqrt(len(found.rows) / max(1, len(found.rows) - len(aim)))
    )
    information = here @ here.T
    size = np.sqrt(np.diag(information) + 1e-300)
    variance = np.linalg.inv(information / np.outer(size, size) + _RIDGE * np.eye(len(aim))) / np.outer(size, size)
    before = noise * math.sqrt(float(aim @ variance @ aim))
    left, chosen = budget, []
    undone = np.array(np.isfinite(rows).all(axis=0))
    for _ in range(most):
        reach = variance @ rows
        gain = (aim @ reach) ** 2 / (1.0 + np.einsum("pn,pn->n", rows, reach))
        worth = np.where(undone & (cost <= left), gain / cost**thrift, -np.inf)
        best = int(np.argmax(worth))
        if not np.isfinite(worth[best]) or gain[best] <= 1e-6 * float(aim @ variance @ aim):
            break
        variance = variance - np.outer(reach[:, best], reach[:, best]) / (1.0 + rows[:, best] @ reach[:, best])
        left -= float(cost[best])
        undone[best] = False
        error = noise * math.sqrt(max(float(aim @ variance @ aim), 0.0))
        place = {name: float(values[best]) for name, values in pool.items()}
        chosen.append(Proposal(place, float(cost[best]), error))
    return Design(before, tuple(chosen))


def picked(design: Design, pool: Mapping[str, Array]) -> list[int]:
    """Return the places in a pool of the runs of a design."""
    names: Sequence[str] = list(pool)
    table = np.stack([pool[name] for name in names], axis=1)
    wanted = [np.array([proposal.at[name] for name in names]) for proposal in design.proposals]
    return [int(np.argmin(np.abs(np.log(table / row)).sum(axis=1))) for row in wanted]


def _slopes(found: Fit, columns: Mapping[str, Array]) -> Array:
    """Derivatives of log predictions by the fitted coordinates, [parameters, rows]."""
    predicted, derivatives = found.law.evaluate(found.coordinates[None], found.rows.seen(columns))
    shape = (1, len(next(iter(columns.values()))))
    rows = np.concatenate([np.broadcast_to(d, shape) / np.broadcast_to(predicted, shape) for d in derivatives])
    return np.asarray(rows[found.free])
