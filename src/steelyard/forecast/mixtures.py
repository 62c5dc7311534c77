"""Mixtures of data: the loss of every domain from the shares of all, and the shares that make a loss smallest.

L_i(r) = c_i + exp(b_i + sum_j t_ij r_j) (Ye et al. 2024, arXiv:2403.16952, and the notebooks of yegcjs/mixinglaws).
Shares add up to one, so that b_i is part of every t_ij and is not fitted by itself. Each domain's law is a `Law`
like any other: fits, intervals and verdicts come from the same engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.fitting import STARTS, Fit, fit
from steelyard.forecast.law import Array, Law, Scale, exponent, law, scale
from steelyard.forecast.objective import Objective
from steelyard.forecast.rows import rows_of

_ONE = 1e-3


def mixing_law(domains: Sequence[str]) -> Law:
    """Return the law of one loss as a function of the shares of domains.

    Args:
        domains: names of the shares; the constants are called t_ and the name.
    """
    names = tuple(domains)
    columns: dict[str, Scale] = dict.fromkeys(names, "raw")

    @law(
        name="data-mixing",
        formula="c + exp(sum_j t_j r_j)",
        paper="Ye et al. 2024, arXiv:2403.16952",
        columns=columns,
        parameters=(*(exponent(f"t_{name}", -1.5, 1.5) for name in names), scale("c", low=-1.0, high=1.0)),
        data="scalebench_small",
    )
    def form(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
        total = sum(getattr(p, f"t_{name}") * getattr(x, name) for name in names)
        term, floor = np.exp(total), np.exp(p.c)
        return term + floor, (*(term * getattr(x, name) for name in names), floor)

    return form


def fit_mixtures(
    shares: Mapping[str, Array],
    losses: Mapping[str, Array],
    objective: Objective | None = None,
    *,
    starts: int = STARTS,
    seed: int = 0,
) -> dict[str, Fit]:
    """Fit the mixing law to every loss.

    Args:
        shares: of every domain in every run, each [runs].
        losses: by name, each [runs].
        objective: as for any fit.
        starts: fits begun for each loss.
        seed: of the draws.

    Raises:
        UserError: if shares are negative or do not add up to one, or a fit is impossible.
    """
    if len(shares) < 2:
        raise UserError("a mixture has at least two domains")
    table = np.stack([np.asarray(column, dtype=float) for column in shares.values()], axis=1)
    off = np.abs(table.sum(axis=1) - 1.0)
    if (table < 0).any() or not (off <= _ONE).all():
        row = int(np.flatnonzero((table < 0).any(axis=1) | ~(off <= _ONE))[0])
        raise UserError(f"row {row + 1}: the shares of a mixture add up to 1, these to {table[row].sum():g}")
    form = mixing_law(tuple(shares))
    return {
        name: fit(rows_of(form, shares, np.asarray(loss, dtype=float)), objective, starts=starts, seed=seed)
        for name, loss in losses.items()
    }


def best_mixture(
    fits: Mapping[str, Fit],
    weights: Mapping[str, float],
    lowest: Mapping[str, float] | None = None,
    highest: Mapping[str, float] | None = None,
) -> tuple[dict[str, float], float]:
    """Return the shares with the smallest weighted loss, and that loss. The problem is convex: there is one.

    Args:
        fits: of `fit_mixtures`.
        weights: what each loss counts, none negative.
        lowest: shares that have to be reached, by domain.
        highest: shares that may not be passed, by domain.

    Raises:
        UserError: if a weight has no loss, or the bounds leave no mixture.
    """
    from scipy.optimize import minimize

    unknown = [name for name in weights if name not in fits]
    if unknown or not weights or min(weights.values()) < 0 or max(weights.values()) <= 0:
        wrong = f"there is no loss {unknown[0]!r}" if unknown else "weights are positive"
        raise UserError(f"weights of a mixture: {wrong}; losses are {', '.join(fits)}")
    domains = tuple(next(iter(fits.values())).law.columns)
    low = np.array([(lowest or {}).get(name, 0.0) for name in domains])
    high = np.array([(highest or {}).get(name, 1.0) for name in domains])
    if (low > high).any() or low.sum() > 1 or high.sum() < 1:
        raise UserError("no mixture lies within these bounds; shares add up to 1")
    slopes = {n: np.array([fits[n].constants[f"t_{d}"] for d in domains]) for n in weights}
    floor = sum(weight * fits[name].constants["c"] for name, weight in weights.items())

    def above(mix: Array) -> tuple[float, Array]:
        terms = {name: weight * float(np.exp(slopes[name] @ mix)) for name, weight in weights.items()}
        return sum(terms.values()), np.sum([slopes[name] * term for name, term in terms.items()], axis=0)

    room = high - low
    begin = low + room * (1.0 - low.sum()) / max(float(room.sum()), 1e-300)
    found = minimize(
        above,
        begin,
        jac=True,
        method="SLSQP",
        bounds=list(zip(low, high, strict=True)),
        constraints={"type": "eq", "fun": lambda mix: mix.sum() - 1.0, "jac": np.ones_like},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    best = np.clip(found.x, low, high)
    return dict(zip(domains, best.tolist(), strict=True)), float(above(best)[0] + floor)
