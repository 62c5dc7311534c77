"""Fitting one law to one set of rows: many starts, each solved for its linear constants, polished, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.law import NOTHING, Array, Law, Published
from steelyard.forecast.minimise import minimise
from steelyard.forecast.objective import Objective, Problem
from steelyard.forecast.rows import Rows
from steelyard.seeds import generator

STARTS = 64
_CHUNK = 64
_AGREE = 1e-4
"""Starts agree when their objectives are within this share of the best."""


@dataclass(frozen=True)
class PublishedScore:
    """What published constants cost on the same rows."""

    published: Published
    objective: float
    ratio: float


@dataclass(frozen=True)
class Fit:
    """A law fitted to rows.

    Attributes:
        rows: what it was fitted to.
        objective: what was made small.
        coordinates: of the best minimum, [parameters].
        value: the objective there.
        starts: how many fits were begun.
        agreeing: how many of them ended within 0.01 % of the best objective.
        fixed: constants that were held.
        published: what published constants score on these rows.
    """

    rows: Rows
    objective: Objective
    coordinates: Array
    value: float
    starts: int
    agreeing: int
    fixed: Mapping[str, float] = field(default_factory=dict)
    published: tuple[PublishedScore, ...] = ()

    @property
    def law(self) -> Law:
        """The law."""
        return self.rows.law

    @property
    def constants(self) -> dict[str, float]:
        """The fitted constants, in units of the columns."""
        return {k: float(v) for k, v in self.law.constants(self.coordinates, self.rows.centres).items()}

    @property
    def free(self) -> Array:
        """Which coordinates were fitted, [parameters]."""
        return np.array([name not in self.fixed for name in self.law.names])

    @property
    def residuals(self) -> Array:
        """ln(predicted) - ln(measured) of every row; plain differences for laws that are not logarithmic."""
        predicted = self.predict(self.rows.columns)
        if not self.law.logarithmic:
            return predicted - self.rows.measured
        return np.asarray(np.log(predicted) - np.log(self.rows.measured))

    @property
    def error(self) -> float:
        """Mean magnitude of the relative error, as a fraction."""
        predicted = self.predict(self.rows.columns)
        return float(np.mean(np.abs(predicted / self.rows.measured - 1.0)))

    @property
    def r2(self) -> float:
        """Share of the variance of the losses that is explained."""
        rest = self.predict(self.rows.columns) - self.rows.measured
        return float(1.0 - np.sum(rest**2) / np.sum((self.rows.measured - self.rows.measured.mean()) ** 2))

    def predict(self, columns: Mapping[str, Any], coordinates: Array | None = None) -> Array:
        """Return predictions for columns of equal lengths: [rows], or [fits, rows] for several coordinates."""
        chosen = self.coordinates if coordinates is None else coordinates
        found, _ = self.law.evaluate(np.atleast_2d(chosen), self.rows.seen(columns))
        found = np.broadcast_to(found, (len(np.atleast_2d(chosen)), np.shape(next(iter(columns.values())))[0]))
        return np.asarray(found[0] if chosen.ndim == 1 else found)


def fit(
    rows: Rows,
    objective: Objective | None = None,
    *,
    starts: int = STARTS,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    polish: bool = True,
) -> Fit:
    """Fit a law to rows.

    Args:
        rows: around their own centres.
        objective: what is made small; Huber 1e-3 of log losses if absent.
        starts: fits begun in the law's box, from draws keyed by the law's name.
        seed: of the draws.
        fixed: constants to hold at a value.
        polish: whether the best minimum is searched once more without slopes, for the last digits.

    Raises:
        UserError: if there are fewer rows than constants to fit, or no start leads anywhere.
    """
    law, objective, fixed = rows.law, objective or Objective(logarithmic=rows.law.logarithmic), dict(fixed or {})
    for name in fixed:
        law.index(name)
    free = np.array([name not in fixed for name in law.names])
    if len(rows) <= free.sum():
        raise UserError(
            f"law {law.name} has {free.sum()} constants to fit and there are {len(rows)} rows; "
            f"it takes {free.sum() + 1} at least: add runs, or choose a smaller law"
        )
    begin = begin_at(rows, objective, starts, seed, fixed)
    problem = _problem(rows, objective)
    ends, values = _in_chunks(problem, begin, free)
    order = np.argsort(values)
    if not np.isfinite(values[order[0]]):
        raise UserError(
            f"law {law.name}: no start leads to a finite loss on these rows; check the units of the columns"
        )
    scores = _problem(rows, objective, smooth=False).value(ends, np.arange(len(ends)))
    best, value = ends[order[0]], float(scores[order[0]])
    if polish and objective.kind != "l2":
        best, value = _polish(rows, objective, best, value, free)
    agreeing = int((scores <= value * (1 + _AGREE) + 1e-300).sum())
    return Fit(rows, objective, best, value, len(begin), agreeing, fixed, score_published(rows, objective, value))


def refit(found: Fit, weights: Array, free: Array | None = None, start: Array | None = None) -> tuple[Array, Array]:
    """Fit again from where a fit ended; returns coordinates [fits, parameters] and objectives [fits].

    Args:
        found: the fit.
        weights: of the rows in each new fit, [fits, rows] or [1, rows].
        free: which coordinates may move, [fits, parameters].
        start: where to begin, [fits, parameters].
    """
    begin = np.repeat(found.coordinates[None], len(weights), axis=0) if start is None else start
    mask = np.broadcast_to(found.free if free is None else free, begin.shape)
    problem = _problem(found.rows, found.objective, weights)
    return _in_chunks(problem, begin, mask, tolerance=1e-7)


def begin_at(rows: Rows, objective: Objective, starts: int, seed: int, fixed: Mapping[str, float]) -> Array:
    """Return coordinates to begin at: drawn from the law's box, then solved for the constants that are linear."""
    law = rows.law
    random = generator(seed, f"forecast {law.name}")
    low = np.array([p.low for p in law.parameters])
    high = np.array([p.high for p in law.parameters])
    begin = low + (high - low) * random.random((starts, len(low)))
    if fixed:
        held = hold(law, rows.centres, begin, fixed)
        begin = held
    return _solve_linear(rows, begin, fixed)


def hold(law: Law, centres: Mapping[str, float], coordinates: Array, fixed: Mapping[str, float]) -> Array:
    """Return coordinates [fits, parameters] with some constants at given values."""
    held = coordinates.copy()
    for row in held:
        constants = {k: float(v) for k, v in law.constants(row, centres).items()}
        wanted = law.coordinates({**constants, **fixed}, centres)
        for name in fixed:
            row[law.index(name)] = wanted[law.index(name)]
    return held


def score_published(rows: Rows, objective: Objective, best: float) -> tuple[PublishedScore, ...]:
    """Return what the law's published constants score on rows."""
    found = []
    for published in rows.law.published:
        place = rows.law.coordinates(published.constants, rows.centres, published.units)
        value = float(_problem(rows, objective, smooth=False).value(place[None], np.zeros(1, dtype=int))[0])
        found.append(PublishedScore(published, value, value / best if best > 0 else np.inf))
    return tuple(found)


def _problem(rows: Rows, objective: Objective, weights: Array | None = None, smooth: bool = True) -> Problem:
    # Absolute values are rounded off far below any residual, so that slopes exist.
    delta = 1e-7 if objective.kind == "l1" and smooth else None
    return Problem(rows.law, rows.seen(), rows.measured, objective, weights, delta)


def _in_chunks(problem: Problem, begin: Array, free: Array, tolerance: float = 1e-10) -> tuple[Array, Array]:
    """Minimise in pieces whose arrays stay in the processor's caches."""
    mask = np.broadcast_to(free, begin.shape)
    size = max(16, min(_CHUNK * 4, 60_000 // max(1, len(problem.measured))))
    ends, values = np.empty_like(begin), np.empty(len(begin))
    for first in range(0, len(begin), size):
        piece = slice(first, first + size)
        weights = problem.weights if len(problem.weights) == 1 else problem.weights[piece]
        part = Problem(problem.law, problem.columns, problem.measured, problem.objective, weights, problem.delta)
        ends[piece], values[piece] = minimise(part, begin[piece], mask[piece], tolerance=tolerance)
    return ends, values


def _solve_linear(rows: Rows, begin: Array, fixed: Mapping[str, float]) -> Array:
    """Variable projection: least squares of relative errors over the constants that the loss is linear in."""
    law = rows.law
    linear = [i for i, p in enumerate(law.parameters) if p.linear and p.name not in fixed]
    if not linear:
        return begin
    probe = begin.copy()
    positive = np.array([law.parameters[i].positive for i in linear])
    probe[:, linear] = np.where(positive, 0.0, 1.0)
    predicted, derivatives = law.evaluate(probe, rows.seen())
    shape = (len(begin), len(rows))
    # At coordinate 0 (or constant 1) the derivative of a linear constant is its term.
    terms = np.stack([np.broadcast_to(derivatives[i], shape) for i in linear], axis=2)
    rest = np.broadcast_to(predicted, shape) - terms.sum(axis=2)
    weights = 1.0 / rows.measured if rows.law.logarithmic else np.ones(len(rows))
    solved = begin.copy()
    with np.errstate(all="ignore"):
        left = terms * weights[:, None]
        right = (rows.measured - rest) * weights
        usable = np.isfinite(left).all(axis=(1, 2)) & np.isfinite(right).all(axis=1)
        size = np.maximum(np.abs(left).max(axis=1, keepdims=True), 1e-300)
        left = left / size
        normal = left.transpose(0, 2, 1) @ left + 1e-9 * len(rows) * np.eye(len(linear))
        answer = np.full((len(begin), len(linear)), np.nan)
        hand = np.einsum("bnk,bn->bk", left, right)
        answer[usable] = np.linalg.solve(normal[usable], hand[usable][:, :, None])[:, :, 0] / size[usable, 0]
    for column, place in enumerate(linear):
        values = answer[:, column]
        if positive[column]:
            good = np.isfinite(values) & (values > 0)
            solved[good, place] = np.maximum(np.log(values[good]), NOTHING)
        else:
            good = np.isfinite(values)
            solved[good, place] = values[good]
    return solved


def _polish(rows: Rows, objective: Objective, end: Array, value: float, free: Array) -> tuple[Array, float]:
    """Nelder and Mead's simplex around a minimum, for the kinks that slopes cannot see."""
    from scipy.optimize import minimize

    exact, nobody = _problem(rows, objective, smooth=False), np.zeros(1, dtype=int)

    def cost(moving: Array) -> float:
        place = end.copy()
        place[free] = moving
        found = float(exact.value(place[None], nobody)[0])
        return found if np.isfinite(found) else 1e300

    start = end[free]
    found = minimize(
        cost,
        start,
        method="Nelder-Mead",
        options={
            "initial_simplex": np.vstack([start, start + 1e-4 * np.eye(len(start))]),
            "xatol": 1e-10,
            "fatol": 1e-14 * value,
            "maxfev": 150 * len(start),
        },
    )
    if found.fun >= value:
        return end, value
    best = end.copy()
    best[free] = found.x
    return best, float(found.fun)
