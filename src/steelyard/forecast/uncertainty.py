"""How sure a fit is: resampled rows, profiles of the objective, a verdict for every constant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from steelyard.forecast.fitting import Fit, refit
from steelyard.forecast.law import NOTHING, Array
from steelyard.seeds import generator

BOOTSTRAPS = 1000
_CHI2 = 3.841458820694124
"""The 95 % point of chi squared with one degree of freedom."""
_FAR_LOG, _FAR = 12.0, 3.0
"""How far a profile follows logarithms of constants, and exponents."""
_WIDEST = 1e3
"""A positive constant whose resampled interval spans more than this factor is not identified."""

Side = Literal["", "below", "above", "both"]


@dataclass(frozen=True)
class Bootstrap:
    """Fits to resampled rows.

    Attributes:
        coordinates: of every fit, [fits, parameters].
        constants: of every fit by name, each [fits].
    """

    coordinates: Array
    constants: Mapping[str, Array]

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Return the percentiles of a constant that hold `level` of the fits."""
        ends = 50 * (1 - level), 50 * (1 + level)
        low, high = np.nanpercentile(self.constants[name], ends)
        return float(low), float(high)

    def error(self, name: str) -> float:
        """Return the standard deviation of a constant."""
        return float(np.nanstd(self.constants[name]))


@dataclass(frozen=True)
class Profile:
    """The least objective with one coordinate held at each of some values.

    Attributes:
        values: of the coordinate, in order.
        costs: objectives, all others fitted again.
        low: lower end of the 95 % interval of the coordinate; -inf where the profile never rises enough.
        high: upper end.
        limit: the objective at the ends of the interval.
    """

    values: Array
    costs: Array
    low: float
    high: float
    limit: float


@dataclass(frozen=True)
class Verdict:
    """What the runs say about one constant.

    Attributes:
        name: of the constant.
        value: at the best fit.
        low: of its 95 % interval: resampled, or the profile's where that is open.
        high: its other end.
        open: on which side no run sets a bound; "" where it is identified.
        run: columns of the run that would tell most about it, where it is not identified.
    """

    name: str
    value: float
    low: float
    high: float
    open: Side = ""
    run: Mapping[str, float] | None = None

    @property
    def identified(self) -> bool:
        """Whether the runs bound it on both sides."""
        return not self.open


def bootstrap(found: Fit, count: int = BOOTSTRAPS, seed: int = 0) -> Bootstrap:
    """Fit again to rows drawn with replacement, all at once, each from where the fit ended.

    Args:
        found: the fit.
        count: resamples.
        seed: of the draws.
    """
    rows = len(found.rows)
    draw = generator(seed, f"forecast bootstrap {found.law.name}")
    weights = draw.multinomial(rows, np.full(rows, 1 / rows), size=count).astype(float)
    ends, _ = refit(found, weights)
    return Bootstrap(ends, found.law.constants(ends, found.rows.centres))


def profiles(found: Fit) -> dict[str, Profile]:
    """Return the profile of every fitted coordinate, by the name of its constant.

    The objective is turned into a likelihood ratio by the ratio of its mean curvature to its mean squared slope, as
    is done for robust regressions; for squares that is the inverse variance, for magnitudes their inverse mean.
    """
    free = np.flatnonzero(found.free)
    limit = found.value + 0.5 * _CHI2 / _sharpness(found)
    size = _spread(found)
    far = np.array([_FAR_LOG if p.positive else _FAR for p in found.law.parameters])
    sides = [(place, sign) for place in free for sign in (-1.0, 1.0)]
    begin = np.repeat(found.coordinates[None], len(sides), axis=0)
    mask = np.repeat(found.free[None], len(sides), axis=0)
    for member, (place, _) in enumerate(sides):
        mask[member, place] = False
    one = np.ones((1, len(found.rows)))
    walked: list[list[tuple[float, float]]] = [[] for _ in sides]
    for multiple in (0.5, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0, 11.0, 18.0, 40.0, np.inf):
        for member, (place, sign) in enumerate(sides):
            step = min(multiple * size[place], far[place])
            begin[member, place] = max(found.coordinates[place] + sign * step, NOTHING)
        begin, costs = refit(found, np.repeat(one, len(sides), axis=0), mask, begin)
        for member, (place, _) in enumerate(sides):
            walked[member].append((float(begin[member, place]), float(costs[member])))
    profiled = {}
    for place in free:
        down, up = (walked[sides.index((place, sign))] for sign in (-1.0, 1.0))
        middle = (float(found.coordinates[place]), found.value)
        profiled[found.law.names[place]] = Profile(
            np.array([value for value, _ in [*down[::-1], middle, *up]]),
            np.array([cost for _, cost in [*down[::-1], middle, *up]]),
            _crossing(middle, down, limit, -np.inf),
            _crossing(middle, up, limit, np.inf),
            limit,
        )
    return profiled


def verdicts(found: Fit, resampled: Bootstrap, profiled: Mapping[str, Profile]) -> list[Verdict]:
    """Return what the runs say about every constant that was fitted."""
    said = []
    for parameter in found.law.parameters:
        if parameter.name in found.fixed:
            continue
        profile, value = profiled[parameter.name], found.constants[parameter.name]
        low, high = resampled.interval(parameter.name)
        wide = parameter.positive and not parameter.along and (low <= 0 or high / low > _WIDEST)
        below, above = not np.isfinite(profile.low), not np.isfinite(profile.high)
        if wide and not below and not above:
            # The fits to resampled rows ran away although the profile closed: trust the worse of the two.
            below, above = value / max(low, 1e-300) > high / value, value / max(low, 1e-300) <= high / value
        side: Side = "both" if below and above else "below" if below else "above" if above else ""
        if below:
            low = 0.0 if parameter.positive else -np.inf
        if above:
            high = np.inf
        run = settling_run(found, parameter.name) if side else None
        said.append(Verdict(parameter.name, value, low, high, side, run))
    return said


def settling_run(found: Fit, name: str) -> dict[str, float] | None:
    """Return the columns of the run that would take most off the variance of a constant.

    Looked for among runs whose columns are at the edges of the present ones, between them, and four times beyond,
    with at most sixteen times the largest product of amounts. None for laws of more than four columns.
    """
    columns = found.rows.columns
    if len(columns) > 4:
        return None
    grids = [_places(values) for values in columns.values()]
    mesh = np.meshgrid(*grids, indexing="ij")
    candidates = {key: axis.ravel() for key, axis in zip(columns, mesh, strict=True)}
    if "U" in candidates:
        kept = candidates["U"] <= candidates["D"]
        candidates = {key: values[kept] for key, values in candidates.items()}
    amounts = [key for key in ("N", "D", "C", "steps", "batch") if key in columns]
    cost = np.prod([candidates[key] for key in amounts], axis=0)
    allowed = cost <= 16 * np.max(np.prod([columns[key] for key in amounts], axis=0))
    slopes, predicted = _slopes(found, candidates)
    free = np.flatnonzero(found.free)
    here, _ = _slopes(found, columns)
    information = here[free] @ here[free].T
    variance = np.linalg.inv(information + 1e-9 * np.trace(information) / len(free) * np.eye(len(free)))
    moved = variance @ slopes[free]
    place = int(np.searchsorted(free, found.law.index(name)))
    gain = moved[place] ** 2 / (1.0 + np.einsum("pn,pn->n", slopes[free], moved))
    gain[~(allowed & np.isfinite(gain) & (predicted > 0))] = -1.0
    best = int(np.argmax(gain))
    return {key: float(values[best]) for key, values in candidates.items()}


def _places(values: Array) -> Array:
    """Where a run may be done: the edges, the middle and, for amounts, four times beyond."""
    low, high = float(values.min()), float(values.max())
    if low <= 0 or low == high:
        return np.unique(np.quantile(values, (0.0, 0.5, 1.0)))
    return np.asarray(np.geomspace(low, high, 3)[[0, 0, 1, 2, 2]] * np.array([0.25, 1.0, 1.0, 1.0, 4.0]))


def _slopes(found: Fit, columns: Mapping[str, Array]) -> tuple[Array, Array]:
    """Derivatives of log predictions, [parameters, rows], and the predictions."""
    predicted, derivatives = found.law.evaluate(found.coordinates[None], found.rows.seen(columns))
    shape = (1, len(next(iter(columns.values()))))
    factor = 1.0 / np.broadcast_to(predicted, shape) if found.law.logarithmic else np.ones(shape)
    return np.concatenate([np.broadcast_to(d, shape) * factor for d in derivatives]), np.broadcast_to(
        predicted, shape
    )[0]


def _spread(found: Fit) -> Array:
    """About one standard error of every coordinate, from curvature; limited where there is hardly any."""
    here, _ = _slopes(found, found.rows.columns)
    free = found.free
    noise = float(np.median(np.abs(found.residuals))) / 0.6745
    information = here[free] @ here[free].T
    scale = np.sqrt(np.maximum(np.diag(information), 1e-30))
    variance = np.linalg.inv(information / np.outer(scale, scale) + 1e-10 * np.eye(int(free.sum())))
    spread = np.full(len(free), 1.0)
    spread[free] = np.clip(noise * np.sqrt(np.maximum(np.diag(variance), 0.0)) / scale, 1e-5, 2.0)
    return spread


def _sharpness(found: Fit) -> float:
    """Mean curvature of the objective over its mean squared slope, with a correction for few rows."""
    objective = found.objective
    predicted = found.predict(found.rows.columns)
    residuals = objective.residuals(predicted, found.rows.measured)
    slope = np.mean(objective.slope(residuals) ** 2)
    size = np.abs(residuals)
    middle = float(np.median(size))
    if objective.kind == "l2":
        curvature = 1.0
    elif objective.kind == "l1":
        curvature = 0.5 / max(middle, 1e-300)
    else:
        width = max(objective.delta, middle)
        curvature = float(np.mean(size <= width)) * objective.delta / width
    rows, free = len(found.rows), int(found.free.sum())
    return float(curvature / max(float(slope), 1e-300) * max(rows - free, 1) / rows)


def _crossing(middle: tuple[float, float], walked: list[tuple[float, float]], limit: float, beyond: float) -> float:
    """Where a profile crosses the limit, between two of its points by the root of the rise."""
    before = middle
    for value, cost in walked:
        if cost > limit:
            rise = np.sqrt(max(before[1] - middle[1], 0.0)), np.sqrt(cost - middle[1])
            share = (np.sqrt(limit - middle[1]) - rise[0]) / max(rise[1] - rise[0], 1e-300)
            return float(before[0] + min(max(share, 0.0), 1.0) * (value - before[0]))
        before = (value, cost)
    return beyond
