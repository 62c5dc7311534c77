"""How well a model trained on a mixture will do, from samples of its sources: optimal transport, then a projection.

First, at a size that was tried: performance is a quadratic function of the shares times the distance between the
mixture and the data that it is judged on, plus a linear function of the shares. Then to sizes that were not:
performance is taken for linear in the logarithm of the size, through the forecasts for two sizes; no constant is
fitted for that (Kang et al. 2023, arXiv:2307.02460, as in the notebook of ruoxi-jia-group/projektor).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.law import Array

_ONE = 1e-6


def distance(sources: Sequence[Array], shares: Array, target: Array) -> float:
    """Return the exact transport distance between a mixture of samples and a target, in units of their numbers.

    Args:
        sources: for each source a sample, [rows, features].
        shares: of the sources.
        target: a sample of what the model is judged on, [rows, features].

    Raises:
        UserError: if shares do not add up to one or features differ.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array
    from scipy.spatial.distance import cdist

    mix = _shares(shares)
    if len(mix) != len(sources):
        raise UserError(f"there are {len(sources)} sources and {len(mix)} shares")
    tables = [np.atleast_2d(np.asarray(sample, dtype=float)) for sample in (*sources, target)]
    if len({table.shape[1] for table in tables}) != 1:
        raise UserError("the samples of a distance have the same features, in the same order")
    weights = np.concatenate([np.full(len(t), share / len(t)) for t, share in zip(tables, mix, strict=False)])
    points, weights = np.concatenate(tables[:-1])[weights > 0], weights[weights > 0]
    costs = cdist(points, tables[-1])
    rows, columns = costs.shape
    place = np.arange(rows * columns)
    # What leaves each point, and what arrives at each of the target's; one of the equations follows from the rest.
    leaves = coo_array((np.ones(place.size), (place // columns, place)), shape=(rows, place.size)).tocsr()
    arrives = coo_array((np.ones(place.size), (place % columns, place)), shape=(columns, place.size)).tocsr()
    found = linprog(
        costs.ravel(),
        A_ub=arrives,
        b_ub=np.full(columns, (1.0 + 1e-12) / columns),
        A_eq=leaves,
        b_eq=weights,
        method="highs",
    )
    if found.status != 0:
        raise UserError(f"no transport was found between {rows} and {columns} points: {found.message}")
    return float(found.fun)


@dataclass(frozen=True)
class Performance:
    """Performance at one size, from shares and distance.

    Attributes:
        size: number of samples trained on.
        coefficients: of `_features`.
        error: root mean square of the residuals, with the degrees of freedom left.
    """

    size: float
    coefficients: Array
    error: float

    def predict(self, shares: Array, distances: Array) -> Array:
        """Return performance [mixtures] for shares [mixtures, sources] and distances [mixtures]."""
        return np.asarray(_features(shares, distances) @ self.coefficients)


def fit_performance(size: float, shares: Array, distances: Array, measured: Array) -> Performance:
    """Fit performance at one size to mixtures that were tried.

    Args:
        size: number of samples trained on.
        shares: [mixtures, sources].
        distances: of each mixture to the data it is judged on, [mixtures].
        measured: performance, [mixtures].

    Raises:
        UserError: if there are too few mixtures.
    """
    design = _features(shares, distances)
    if len(design) <= design.shape[1]:
        raise UserError(
            f"{np.shape(shares)[1]} sources have {design.shape[1]} coefficients and there are {len(design)} "
            f"mixtures; it takes {design.shape[1] + 1} at least"
        )
    spread = np.maximum(np.abs(design).max(axis=0), 1e-300)
    coefficients = np.linalg.lstsq(design / spread, np.asarray(measured, dtype=float), rcond=None)[0] / spread
    rest = design @ coefficients - measured
    freedom = len(design) - design.shape[1]
    return Performance(float(size), coefficients, float(np.sqrt(np.sum(rest**2) / freedom)))


def project(
    small: tuple[Performance, Array], large: tuple[Performance, Array], shares: Array, size: float
) -> Array:
    """Return performance [mixtures] at a size, from the forecasts for two sizes.

    Args:
        small: performance at one size, and the distances [mixtures] of samples of that size.
        large: the same at another.
        shares: [mixtures, sources].
        size: number of samples that is asked about.

    Raises:
        UserError: if both are of one size.
    """
    first, second = small[0].size, large[0].size
    if first == second or min(first, second, size) <= 0:
        raise UserError(f"a projection takes two different sizes above zero, not {first:g} and {second:g}")
    reach = math.log(second / first)
    begin, end = small[0].predict(shares, small[1]), large[0].predict(shares, large[1])
    return np.asarray((math.log(size / first) * end - math.log(size / second) * begin) / reach)


def _features(shares: Array, distances: Array) -> Array:
    """1, the distance, and for every source but the last p, p times the distance and p squared times it."""
    mix, far = np.asarray(shares, dtype=float), np.asarray(distances, dtype=float)
    if mix.ndim != 2 or far.shape != (len(mix),):
        raise UserError("shares are [mixtures, sources] and distances [mixtures]")
    for row in mix:
        _shares(row)
    free = mix[:, :-1]
    return np.column_stack([np.ones(len(mix)), far, free, free * far[:, None], free**2 * far[:, None]])


def _shares(shares: Array) -> Array:
    mix = np.asarray(shares, dtype=float)
    if (mix < 0).any() or abs(float(mix.sum()) - 1.0) > _ONE:
        raise UserError(f"the shares of a mixture add up to 1, these to {float(mix.sum()):g}")
    return mix
