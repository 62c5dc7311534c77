"""Skills behind benchmarks, from size and tokens: one slope for all families, one level for each.

Y_j = chance_j + (1 - chance_j) / (1 + exp(-loadings_j . skills - offset_j)), and a skill is a level of the family
plus slopes times ln N, ln D and ln N ln D (Maia Polo et al. 2024, "Sloth", arXiv:2412.06540; the loss is the one of
felipemaiapolo/sloth: squares of small residuals, magnitudes of large ones). A family of which one small model is
known can so be forecast at larger sizes. Skills and loadings are known only up to a linear map of each other, so
predictions are given and skills are not named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.law import Array
from steelyard.seeds import generator

_DELTA = 0.01


@dataclass(frozen=True)
class Skills:
    """A fitted table.

    Attributes:
        families: whose levels are known.
        levels: [families, skills].
        slopes: of the three columns, standardised, [3, skills].
        loadings: [skills, benchmarks].
        offsets: [benchmarks].
        chance: [benchmarks].
        centre: of the three columns.
        spread: of the three columns.
        value: mean cost of the residuals.
    """

    families: tuple[str, ...]
    levels: Array
    slopes: Array
    loadings: Array
    offsets: Array
    chance: Array
    centre: Array
    spread: Array
    value: float

    def predict(self, parameters: Array, tokens: Array, families: Sequence[str]) -> Array:
        """Return scores [models, benchmarks].

        Raises:
            UserError: if a family was not among those fitted.
        """
        places = {name: place for place, name in enumerate(self.families)}
        unknown = [name for name in families if name not in places]
        if unknown:
            raise UserError(f"family {unknown[0]!r} is not in the table that was fitted; add one of its models")
        seen = (_columns(parameters, tokens) - self.centre) / self.spread
        skills = self.levels[[places[name] for name in families]] + seen @ self.slopes
        share = 0.5 * (1.0 + np.tanh(0.5 * (skills @ self.loadings + self.offsets)))
        return np.asarray(self.chance + (1.0 - self.chance) * share)


def fit_skills(
    parameters: Array,
    tokens: Array,
    families: Sequence[str],
    scores: Array,
    chance: Array,
    skills: int = 2,
    *,
    starts: int = 4,
    seed: int = 0,
) -> Skills:
    """Fit skills to a table of models.

    Args:
        parameters: of every model.
        tokens: that it was trained on.
        families: its family.
        scores: shares, [models, benchmarks], without gaps.
        chance: score of guessing, [benchmarks].
        skills: how many.
        starts: fits begun; the best is kept.
        seed: of the draws.

    Raises:
        UserError: if there are gaps or more skills than benchmarks.
    """
    from scipy.optimize import minimize

    table, chance = np.asarray(scores, dtype=float), np.asarray(chance, dtype=float)
    columns = _columns(parameters, tokens)
    if table.ndim != 2 or not 1 <= skills <= table.shape[1] or len(chance) != table.shape[1]:
        raise UserError(f"{skills} skills take a table of that many benchmarks or more, with a chance for each")
    if not (np.isfinite(table).all() and np.isfinite(columns).all()):
        raise UserError("a score, a size or a number of tokens is missing; leave models with gaps out")
    names, member = np.unique(np.array(families), return_inverse=True)
    centre, spread = columns.mean(axis=0), np.maximum(columns.std(axis=0), 1e-12)
    seen = (columns - centre) / spread
    shapes = ((len(names), skills), (3, skills), (skills, table.shape[1]), (table.shape[1],))
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    indicator = np.zeros((len(names), len(table)))
    indicator[member, np.arange(len(table))] = 1.0

    def parts(place: Array) -> list[Array]:
        return [piece.reshape(shape) for piece, shape in zip(np.split(place, ends[:-1]), shapes, strict=True)]

    def cost(place: Array) -> tuple[float, Array]:
        levels, slopes, loadings, offsets = parts(place)
        skill = levels[member] + seen @ slopes
        share = 0.5 * (1.0 + np.tanh(0.5 * (skill @ loadings + offsets)))
        off = chance + (1.0 - chance) * share - table
        size = np.abs(off)
        value = np.where(size <= _DELTA, 0.5 * off**2 / _DELTA, size - 0.5 * _DELTA).mean()
        pull = np.clip(off / _DELTA, -1.0, 1.0) * (1.0 - chance) * share * (1.0 - share) / off.size
        back = pull @ loadings.T
        pieces = (indicator @ back, seen.T @ back, skill.T @ pull, pull.sum(axis=0))
        return float(value), np.concatenate([piece.ravel() for piece in pieces])

    random = generator(seed, f"forecast skills {skills}")
    best, least = np.zeros(ends[-1]), np.inf
    for _ in range(starts):
        begin = 0.3 * random.standard_normal(ends[-1])
        begin[ends[1] : ends[2]] = np.abs(begin[ends[1] : ends[2]])
        found = minimize(cost, begin, jac=True, method="L-BFGS-B", options={"maxiter": 1500, "maxfun": 3000})
        if found.fun < least:
            best, least = found.x, float(found.fun)
    levels, slopes, loadings, offsets = parts(best)
    known = tuple(str(name) for name in names)
    return Skills(known, levels, slopes, loadings, offsets, chance, centre, spread, least)


def _columns(parameters: Array, tokens: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        size, data = np.log(np.asarray(parameters, dtype=float)), np.log(np.asarray(tokens, dtype=float))
    return np.column_stack([size, data, size * data])
