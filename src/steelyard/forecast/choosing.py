"""Which law to believe: by the runs of most compute, held out, never by the fit to all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast import laws
from steelyard.forecast.fitting import Fit, fit
from steelyard.forecast.law import Array
from steelyard.forecast.objective import Objective
from steelyard.forecast.rows import Rows
from steelyard.forecast.runs import RunTable

HOLDOUT = 0.25
LEVEL = 0.9
_CUTS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
AUTO = ("chinchilla", "coupled")
"""What `--law auto` chooses from, where the table has the columns."""


@dataclass(frozen=True)
class Score:
    """One law on one table.

    Attributes:
        law: its name.
        fit: to all rows that may be fitted.
        in_sample: mean relative error on them.
        inner: on the held-out rows of most compute, fitted without them.
        outer: on rows that were kept apart from the beginning; None where there are none.
        reach: by what factor the largest held-out compute exceeds the largest fitted.
        problem: why it could not be fitted, "" if it could.
    """

    law: str
    fit: Fit | None
    in_sample: float = np.inf
    inner: float = np.inf
    outer: float | None = None
    reach: float = 1.0
    problem: str = ""


@dataclass(frozen=True)
class Comparison:
    """Laws side by side, the best on held-out compute first."""

    scores: tuple[Score, ...]
    holdout: float
    rows: int
    notes: tuple[str, ...] = field(default=())

    @property
    def best(self) -> Score:
        """The law with the least inner error."""
        return self.scores[0]

    @property
    def tempting(self) -> Score:
        """The law with the least in-sample error, which is not to be trusted for that."""
        return min((s for s in self.scores if s.fit is not None), key=lambda score: score.in_sample)


def compare(
    table: RunTable,
    names: Sequence[str] = (),
    objective: Objective | None = None,
    *,
    holdout: float = HOLDOUT,
    outer: float = 0.0,
    starts: int = 32,
    seed: int = 0,
) -> Comparison:
    """Fit several laws and hold the runs of most compute against each.

    Args:
        table: the runs.
        names: of laws; those of `AUTO` that the table has columns for if empty.
        objective: what is made small.
        holdout: share of the rows, of most compute, that the inner error is measured on.
        outer: share that no fit sees, for the outer error.
        starts: of each fit.
        seed: of the draws.

    Raises:
        UserError: if no law can be fitted, or too few rows are left.
    """
    if not 0 < holdout < 0.9 or not 0 <= outer < 0.9:
        raise UserError(f"a hold-out is a share between 0 and 0.9, not {holdout:g} and {outer:g}")
    chosen = list(names) or [name for name in AUTO if all(c in table for c in laws.get(name).columns)]
    if not chosen:
        raise UserError(f"{table.source}: no law of {', '.join(AUTO)} fits its columns; name some with --law")
    order = by_compute(table)
    kept = order[: len(order) - round(outer * len(order))]
    apart = order[len(kept) :]
    scores = []
    for name in dict.fromkeys(chosen):
        rows = table.rows(laws.get(name))
        try:
            scores.append(_score(rows, table.compute(), kept, apart, objective, holdout, starts, seed))
        except UserError as error:
            scores.append(Score(name, None, problem=str(error)))
    if all(score.fit is None for score in scores):
        raise UserError(scores[0].problem)
    return Comparison(tuple(sorted(scores, key=lambda score: score.inner)), holdout, len(kept), table.notes)


def by_compute(table: RunTable) -> Array:
    """Return the order of the rows by compute, equal ones as they stand."""
    return np.argsort(table.compute(), kind="stable")


def _score(
    rows: Rows,
    compute: Array,
    kept: Array,
    apart: Array,
    objective: Objective | None,
    holdout: float,
    starts: int,
    seed: int,
) -> Score:
    few = kept[: len(kept) - max(1, round(holdout * len(kept)))]
    held = kept[len(few) :]
    inner = fit(rows.only(few).centred(), objective, starts=starts, seed=seed, polish=False)
    whole = fit(rows.only(kept).centred(), objective, starts=starts, seed=seed, polish=False)
    return Score(
        rows.law.name,
        whole,
        whole.error,
        error_on(inner, rows.only(held)),
        error_on(whole, rows.only(apart)) if len(apart) else None,
        float(compute[held].max() / compute[few].max()),
    )


def error_on(found: Fit, rows: Rows) -> float:
    """Return the mean relative error of a fit on other rows, as a fraction."""
    return float(np.mean(np.abs(found.predict(rows.columns) / rows.measured - 1.0)))


@dataclass(frozen=True)
class Reliability:
    """How far forecasts of runs larger than all fitted ones were off, inside the table itself.

    Attributes:
        residuals: |ln predicted - ln measured| of the larger runs, for every cut of the table.
        reach: the largest factor of compute beyond the fitted runs that was tried.
    """

    residuals: tuple[Array, ...]
    reach: float

    def half_width(self, level: float = LEVEL) -> float:
        """Return the half width of an interval of log loss: the widest of the cuts' quantiles.

        The forecasts of one cut err together, so that pooling them would count one mistake many times. On the ten
        tables of the benchmark the widest of the cuts covers between 85 and 95 % of held-back runs at a level of
        90 %; pooled quantiles cover less.
        """
        return float(max(np.quantile(found, level) for found in self.residuals))


def reliability(
    rows: Rows, compute: Array, objective: Objective | None = None, *, starts: int = 16, seed: int = 0
) -> Reliability:
    """Forecast all larger runs from the smaller ones, at several cuts.

    The residuals of the fit itself say how well it interpolates; these say how well it extrapolates.

    Args:
        rows: as the law reads them.
        compute: of every row.
        objective: what is made small.
        starts: of each fit.
        seed: of the draws.

    Raises:
        UserError: if there are too few rows to fit the law on the smaller part of them.
    """
    order = np.argsort(compute, kind="stable")
    residuals, reach = [], 1.0
    for cut in _CUTS:
        below, above = order[: round(cut * len(order))], order[round(cut * len(order)) :]
        if not len(above) or len(below) <= len(rows.law.parameters):
            continue
        found = fit(rows.only(below).centred(), objective, starts=starts, seed=seed, polish=False)
        predicted = found.predict(rows.only(above).columns)
        with np.errstate(invalid="ignore", divide="ignore"):
            off = np.abs(np.log(predicted) - np.log(rows.measured[above]))
        residuals.append(np.where(np.isfinite(off), off, np.inf))
        reach = max(reach, float(compute[above].max() / compute[below].max()))
    if not residuals:
        raise UserError(
            f"law {rows.law.name}: {len(order)} runs are too few to hold the larger ones against the smaller; "
            "add runs, or choose a law with fewer constants"
        )
    return Reliability(tuple(residuals), reach)


def table_from(columns: Mapping[str, Array], source: str = "runs") -> RunTable:
    """Return a table of columns that are already numbers."""
    from steelyard.forecast.runs import Column

    known = {name: Column(name, name, np.asarray(values, float)) for name, values in columns.items()}
    return RunTable(source, known, list(range(len(next(iter(columns.values()))))))
