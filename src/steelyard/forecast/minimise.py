"""Many small minimisations at once: damped Gauss-Newton steps to come near, BFGS to arrive.

A batch of fits is one array of coordinates; each pass over the rows serves them all. Huber's function with a small
delta is nearly an absolute value, whose minimum has kinks: the line search asks only for a decrease and a flatter
slope (weak Wolfe conditions by bisection), with which BFGS is known to work there (Lewis and Overton 2013).
"""

from __future__ import annotations

import numpy as np

from steelyard.forecast.law import Array
from steelyard.forecast.objective import Problem

_DECREASE, _FLATTER = 1e-4, 0.5
_TRIALS = 40


def minimise(
    problem: Problem, start: Array, free: Array | None = None, iterations: int = 400, tolerance: float = 1e-10
) -> tuple[Array, Array]:
    """Return coordinates [fits, parameters] and objectives [fits] of local minima.

    Args:
        problem: rows and objective.
        start: coordinates to begin at.
        free: which coordinates may move, [fits, parameters]; all if absent.
        iterations: the most steps.
        tolerance: a fit ends when three steps in a row gain less than this share of its objective.
    """
    free = np.ones(start.shape, dtype=bool) if free is None else np.broadcast_to(free, start.shape)
    near, matrix = _approach(problem, start, free)
    return _arrive(problem, near, matrix, free, iterations, tolerance)


def _approach(problem: Problem, start: Array, free: Array, steps: int = 15) -> tuple[Array, Array]:
    """Levenberg-Marquardt on the quadratic majorant; returns coordinates and inverse curvatures."""
    place = start.copy()
    everyone = np.arange(len(place))
    damping = np.full(len(place), 1e-3)
    value, gradient, matrix = problem.curvature(place, everyone)
    for _ in range(steps):
        trial = place - _solve(matrix, gradient, damping, free)
        found, slope, bend = problem.curvature(trial, everyone)
        better = found < value
        place[better], value[better] = trial[better], found[better]
        gradient[better], matrix[better] = slope[better], bend[better]
        damping = np.clip(np.where(better, damping * 0.2, damping * 8.0), 1e-9, 1e6)
        if not better.any() and (damping > 1e3).all():
            break
    return place, _inverse(matrix, free)


def _damped(matrix: Array, damping: Array, free: Array) -> Array:
    both = free[:, :, None] & free[:, None, :]
    kept = np.where(both, matrix, 0.0)
    diagonal = np.einsum("bpp->bp", kept)
    size = np.maximum(diagonal.max(axis=1, keepdims=True), 1e-30)
    added = np.where(free, damping[:, None] * np.maximum(diagonal, 1e-8 * size), 1.0) + 1e-14 * size
    return np.asarray(kept + added[:, :, None] * np.eye(matrix.shape[1]))


def _solve(matrix: Array, gradient: Array, damping: Array, free: Array) -> Array:
    step = np.linalg.solve(_damped(matrix, damping, free), np.where(free, gradient, 0.0)[:, :, None])[:, :, 0]
    return np.asarray(np.clip(np.where(free, step, 0.0), -3.0, 3.0))


def _inverse(matrix: Array, free: Array) -> Array:
    both = free[:, :, None] & free[:, None, :]
    found = np.linalg.inv(_damped(matrix, np.full(len(matrix), 1e-6), free))
    return np.asarray(np.where(both, found, 0.0))


def _arrive(
    problem: Problem, start: Array, inverse: Array, free: Array, iterations: int, tolerance: float
) -> tuple[Array, Array]:
    """BFGS with a line search of its own for every fit; fits that have arrived leave the batch."""
    final, values = start.copy(), np.empty(len(start))
    member = np.arange(len(start))
    place, inverse, mask = start.copy(), inverse.copy(), free.copy()
    value, gradient = problem.gradient(place, member)
    gradient = np.where(mask, gradient, 0.0)
    values[:] = value
    fresh = inverse.copy()
    idle, restarts = np.zeros(len(start), dtype=int), np.zeros(len(start), dtype=int)
    direction, slope = _direction(inverse, gradient)
    low, high, step = np.zeros(len(start)), np.full(len(start), np.inf), np.ones(len(start))
    trials = np.zeros(len(start), dtype=int)
    for _ in range(iterations):
        trial = place + step[:, None] * direction
        found, new = problem.gradient(trial, member)
        new = np.where(mask, new, 0.0)
        fell = found <= value + _DECREASE * step * slope
        flat = np.einsum("bp,bp->b", new, direction) >= _FLATTER * slope
        high = np.where(fell, high, step)
        low = np.where(fell & ~flat, step, low)
        taken = fell & flat
        trials = np.where(taken, 0, trials + 1)
        lost = ~taken & (trials >= _TRIALS)
        # A search that ran out of trials still keeps what it gained.
        moved = taken | (lost & fell)
        step = np.where(np.isfinite(high), 0.5 * (low + high), 2.0 * step)
        if moved.any():
            gained = value - found
            _update(inverse, fresh, moved, trial - place, new - gradient)
            small = moved & (gained <= tolerance * np.abs(value))
            idle = np.where(small, idle + 1, np.where(moved, 0, idle))
            place[moved], value[moved], gradient[moved] = trial[moved], found[moved], new[moved]
        reset = lost & (restarts < 2)
        restarts = np.where(reset, restarts + 1, restarts)
        inverse[reset] = fresh[reset]
        changed = moved | reset
        if changed.any():
            direction[changed], slope[changed] = _direction(inverse[changed], gradient[changed])
            low[changed], high[changed], step[changed], trials[changed] = 0.0, np.inf, 1.0, 0
        done = (idle >= 3) | (lost & ~reset) | (slope > -1e-30)
        if done.any():
            final[member[done]], values[member[done]] = place[done], value[done]
            stay = ~done
            if not stay.any():
                return final, values
            member, place, inverse, mask = member[stay], place[stay], inverse[stay], mask[stay]
            value, gradient, fresh = value[stay], gradient[stay], fresh[stay]
            idle, restarts, trials = idle[stay], restarts[stay], trials[stay]
            direction, slope = direction[stay], slope[stay]
            low, high, step = low[stay], high[stay], step[stay]
    final[member], values[member] = place, value
    return final, values


def _direction(inverse: Array, gradient: Array) -> tuple[Array, Array]:
    direction = -np.einsum("bpq,bq->bp", inverse, gradient)
    slope = np.einsum("bp,bp->b", direction, gradient)
    size = np.abs(direction).max(axis=1, keepdims=True, initial=1e-300)
    factor = np.minimum(1.0, 2.0 / size)
    return direction * factor, slope * factor[:, 0]


def _update(inverse: Array, fresh: Array, moved: Array, step: Array, change: Array) -> None:
    """The BFGS update of the inverse curvature of those that moved; `fresh` is what a restart begins with."""
    product = np.einsum("bp,bp->b", step, change)
    usable = moved & (product > 1e-14 * np.linalg.norm(step, axis=1) * np.linalg.norm(change, axis=1))
    if not usable.any():
        return
    s, y, sy = step[usable], change[usable], product[usable]
    h = inverse[usable]
    hy = np.einsum("bpq,bq->bp", h, y)
    factor = (1.0 + np.einsum("bp,bp->b", y, hy) / sy) / sy
    outer = s[:, :, None] * hy[:, None, :]
    h += (
        factor[:, None, None] * s[:, :, None] * s[:, None, :]
        - (outer + outer.transpose(0, 2, 1)) / sy[:, None, None]
    )
    inverse[usable] = h
