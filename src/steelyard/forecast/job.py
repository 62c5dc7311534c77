"""The jobs behind the verbs: a table of runs in, plain data with every figure that is shown out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast import laws
from steelyard.forecast.choosing import (
    HOLDOUT,
    LEVEL,
    Comparison,
    Reliability,
    compare,
    reliability,
)
from steelyard.forecast.fitting import STARTS, Fit, fit
from steelyard.forecast.law import Array
from steelyard.forecast.objective import Objective
from steelyard.forecast.runs import RunTable
from steelyard.forecast.uncertainty import BOOTSTRAPS, Bootstrap, Profile, Verdict, bootstrap, profiles, verdicts
from steelyard.progress import SILENT, Progress

FAR = 10.0
"""A factor of compute beyond the fitted runs at which a forecast carries a warning."""


@dataclass(frozen=True)
class FitReport:
    """A fit with what is known about it.

    Attributes:
        table: the runs.
        fit: the fit.
        bootstrap: fits to resampled rows.
        profiles: of every fitted coordinate.
        verdicts: on every constant.
        reliability: errors of forecasts inside the table; None where there are too few runs.
        comparison: of the laws it was chosen from; None where the law was given.
        notes: what to know.
    """

    table: RunTable
    fit: Fit
    bootstrap: Bootstrap
    profiles: Mapping[str, Profile]
    verdicts: Sequence[Verdict]
    reliability: Reliability | None
    comparison: Comparison | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        found = self.fit
        return {
            "runs": self.table.source,
            "rows": len(found.rows),
            "units": {key: column.unit for key, column in self.table.columns.items() if column.unit},
            "law": found.law.name,
            "formula": found.law.formula,
            "paper": found.law.paper,
            "objective": found.objective.label,
            "value": found.value,
            "starts": found.starts,
            "agreeing": found.agreeing,
            "error": found.error,
            "r2": found.r2,
            "constants": found.constants,
            "fixed": dict(found.fixed),
            "verdicts": [verdict_data(verdict) for verdict in self.verdicts],
            "published": [
                {
                    "label": score.published.label,
                    "source": score.published.source,
                    "objective": number(score.objective),
                    "times_ours": number(score.ratio),
                    "note": score.published.note,
                }
                for score in found.published
            ],
            "interval_of_forecasts": None
            if self.reliability is None
            else {
                "level": LEVEL,
                "half_width": number(self.reliability.half_width()),
                "reach": self.reliability.reach,
            },
            "comparison": None if self.comparison is None else comparison_data(self.comparison),
            "notes": list(self.notes),
        }


def fit_runs(
    table: RunTable,
    law: str = "auto",
    objective: Objective | None = None,
    *,
    holdout: float = HOLDOUT,
    starts: int = STARTS,
    bootstraps: int = BOOTSTRAPS,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    progress: Progress = SILENT,
) -> FitReport:
    """Fit a law to a table and say how sure that is.

    Args:
        table: the runs.
        law: name, or "auto" for the best on held-out compute.
        objective: what is made small; Huber 1e-3 of log losses if absent.
        holdout: for "auto": share of the runs that is held out.
        starts: fits begun.
        bootstraps: resamples.
        seed: of all draws.
        fixed: constants to hold.
        progress: told of the steps.

    Raises:
        UserError: if the table cannot be fitted.
    """
    progress.start("fit", 4)
    comparison = None
    if law == "auto":
        comparison = compare(table, (), objective, holdout=holdout, seed=seed)
        law = comparison.best.law
    progress.advance(1)
    rows = table.rows(laws.get(law))
    found = fit(rows, objective, starts=starts, seed=seed, fixed=fixed)
    progress.advance(1)
    resampled = bootstrap(found, bootstraps, seed)
    progress.advance(1)
    profiled = profiles(found)
    said = verdicts(found, resampled, profiled)
    progress.advance(1)
    progress.finish()
    notes = [*table.notes, *fit_notes(found, table.lines)]
    trusted = None
    try:
        if found.law.logarithmic and not fixed:
            trusted = reliability(rows, table.compute(), objective, starts=min(starts, 16), seed=seed)
    except UserError as error:
        notes.append(str(error))
    return FitReport(table, found, resampled, profiled, said, trusted, comparison, tuple(notes))


def fit_notes(found: Fit, lines: Sequence[int]) -> list[str]:
    """Return what to know about a fit; `lines` are those of its rows in the file."""
    notes = []
    if found.agreeing < 3 and found.starts >= 8:
        notes.append(
            f"only {found.agreeing} of {found.starts} starts reach the best minimum; "
            f"try --starts {4 * found.starts}"
        )
    worst = np.abs(found.residuals)
    middle = float(np.median(worst))
    far = np.flatnonzero(worst > 10 * middle) if middle > 0 else np.array([])
    if len(far):
        notes.append(
            f"{len(far)} of {len(found.rows)} runs lie off the surface, more than ten times the median residual; "
            f"the farthest is row {lines[int(np.argmax(worst))]}"
        )
    return notes


@dataclass(frozen=True)
class Forecast:
    """A prediction for one run.

    Attributes:
        at: its columns.
        value: the prediction.
        low: lower end of the interval of a measured value, from forecasts held against the table's own larger runs.
        high: its upper end.
        fit_low: lower end of the interval of the law's value, from resampled rows.
        fit_high: its upper end.
        factors: by how much each column lies beyond the fitted runs; 1 inside.
        warnings: in words.
    """

    at: Mapping[str, float]
    value: float
    low: float | None
    high: float | None
    fit_low: float
    fit_high: float
    factors: Mapping[str, float]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "at": dict(self.at),
            "value": number(self.value),
            "interval": None if self.low is None or self.high is None else [number(self.low), number(self.high)],
            "interval_of_fit": [number(self.fit_low), number(self.fit_high)],
            "beyond": dict(self.factors),
            "warnings": list(self.warnings),
        }


def predict(report: FitReport, at: Mapping[str, float], level: float = LEVEL) -> Forecast:
    """Return what a fit says about another run.

    Args:
        report: the fit.
        at: the run's columns; of N, D and C one may be left out.
        level: of the intervals.

    Raises:
        UserError: if a column is missing.
    """
    found = report.fit
    full = complete(at, found)
    columns = {name: np.array([full[name]]) for name in found.law.columns}
    value = float(found.predict(columns)[0])
    drawn = found.predict(columns, report.bootstrap.coordinates)[:, 0]
    fit_low, fit_high = np.nanpercentile(drawn, (50 * (1 - level), 50 * (1 + level)))
    factors = {name: beyond(full[name], found.rows.columns[name]) for name in found.law.columns}
    compute = report.table.compute() if {"N", "D"} <= set(full) or "C" in full else None
    warnings = [
        f"{name} is {factor:.3g} times beyond the fitted runs" for name, factor in factors.items() if factor > FAR
    ]
    if compute is not None:
        reach = full.get("C", 6 * full.get("N", 0.0) * full.get("D", 0.0)) / float(compute.max())
        factors = {**factors, "C": max(1.0, reach)}
        tried = report.reliability.reach if report.reliability else 1.0
        if reach > max(tried, 1.0):
            warnings.append(
                f"compute is {reach:.3g} times the largest fitted run; "
                f"forecasts were checked up to {tried:.3g} times"
            )
    low = high = None
    if report.reliability is not None:
        half = max(
            report.reliability.half_width(level), 0.5 * abs(math.log(fit_high / fit_low)) if fit_low > 0 else 0
        )
        low, high = value * math.exp(-half), value * math.exp(half)
    loose = [verdict.name for verdict in report.verdicts if not verdict.identified]
    if loose:
        warnings.append(f"not identified from these runs: {', '.join(loose)}")
    return Forecast(full, value, low, high, float(fit_low), float(fit_high), factors, tuple(warnings))


def complete(at: Mapping[str, float], found: Fit) -> dict[str, float]:
    """Return a run's columns with N, D and C worked out of each other."""
    full = dict(at)
    if "C" not in full and {"N", "D"} <= set(full):
        full["C"] = 6 * full["N"] * full["D"]
    if "D" not in full and {"N", "C"} <= set(full):
        full["D"] = full["C"] / (6 * full["N"])
    if "N" not in full and {"D", "C"} <= set(full):
        full["N"] = full["C"] / (6 * full["D"])
    missing = [name for name in found.law.columns if name not in full]
    if missing:
        raise UserError(
            f"law {found.law.name} needs {', '.join(found.law.columns)}; say {missing[0]} too, as in "
            f"--at {','.join(f'{name}=…' for name in found.law.columns)}"
        )
    for name, value in full.items():
        if not math.isfinite(value) or value < 0 or (value == 0 and found.law.columns.get(name) in ("log", "ln")):
            raise UserError(f"--at: {name} is {value:g}; it has to be above zero")
    return full


def beyond(value: float, fitted: Array) -> float:
    """Return by what factor a value lies outside the fitted ones, 1 inside."""
    low, high = float(fitted.min()), float(fitted.max())
    if value > high > 0:
        return value / high
    return low / value if 0 < value < low else 1.0


def verdict_data(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain data."""
    return {
        "name": verdict.name,
        "value": number(verdict.value),
        "low": number(verdict.low),
        "high": number(verdict.high),
        "identified": verdict.identified,
        "open": verdict.open,
        "run": None if verdict.run is None else {key: number(value) for key, value in verdict.run.items()},
    }


def comparison_data(found: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data."""
    return {
        "holdout": found.holdout,
        "rows": found.rows,
        "best": found.best.law,
        "best_in_sample": found.tempting.law,
        "laws": [
            {
                "law": score.law,
                "in_sample": number(score.in_sample),
                "inner": number(score.inner),
                "outer": None if score.outer is None else number(score.outer),
                "reach": score.reach,
                "problem": score.problem,
                "constants": None if score.fit is None else score.fit.constants,
            }
            for score in found.scores
        ],
        "notes": list(found.notes),
    }


def number(value: float) -> float | None:
    """Return a number that JSON can hold; None for what is not finite."""
    return float(value) if math.isfinite(value) else None


def plain(data: Any) -> Any:
    """Return nested data as JSON can hold it."""
    if isinstance(data, Mapping):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    return number(float(data)) if isinstance(data, (float, np.floating)) else data
