"""Laws from models that others trained: few capabilities behind many benchmarks, compute behind the capabilities.

Benchmarks of public models lie near a space of few dimensions. Its first directions stand for capabilities that
grow with the logarithm of compute, at each family's own rate; another score is a sigmoid of them (Ruan et al. 2024,
arXiv:2405.10938). It is no law of the form of `law.Law`: the capabilities are found from the scores themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.law import Array


@dataclass(frozen=True)
class Capabilities:
    """A space of capabilities.

    Attributes:
        centre: mean of every benchmark, [benchmarks].
        spread: what every benchmark was divided by, [benchmarks].
        directions: of the space, the strongest first, [capabilities, benchmarks]; the first grows with the scores.
        shares: of the variance that each explains, of all that there are, [benchmarks].
    """

    centre: Array
    spread: Array
    directions: Array
    shares: Array

    def of(self, scores: Array) -> Array:
        """Return the capabilities [models, capabilities] of scores [models, benchmarks]."""
        return np.asarray((np.asarray(scores, dtype=float) - self.centre) / self.spread @ self.directions.T)

    def scores(self, capabilities: Array) -> Array:
        """Return the scores [models, benchmarks] that capabilities [models, capabilities] stand for."""
        return np.asarray(capabilities @ self.directions * self.spread + self.centre)


def capabilities(scores: Array, count: int = 3, standardise: bool = False) -> Capabilities:
    """Return the space of capabilities of a table of scores.

    Args:
        scores: [models, benchmarks], without gaps.
        count: how many directions.
        standardise: divide each benchmark by its standard deviation first.

    Raises:
        UserError: if there are gaps, or too few models or benchmarks.
    """
    table = np.asarray(scores, dtype=float)
    if table.ndim != 2 or min(table.shape) < count or len(table) < 3:
        raise UserError(f"{count} capabilities take as many models and benchmarks, and three models at least")
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise UserError(f"row {row + 1} lacks a score; leave models with gaps out")
    centre = table.mean(axis=0)
    spread = table.std(axis=0) if standardise else np.ones(table.shape[1])
    if (spread == 0).any():
        raise UserError(f"benchmark {int(np.flatnonzero(spread == 0)[0]) + 1} has the same score everywhere")
    _, strengths, directions = np.linalg.svd((table - centre) / spread, full_matrices=False)
    kept = directions[:count]
    # The sign of a direction is arbitrary; here its largest part grows with the benchmark.
    signs = np.sign(kept[np.arange(count), np.abs(kept).argmax(axis=1)])
    return Capabilities(centre, spread, kept * signs[:, None], strengths**2 / np.sum(strengths**2))


@dataclass(frozen=True)
class Family:
    """How one family turns compute into a capability.

    Attributes:
        name: of the family.
        models: how many it has.
        slope: capability for a ten times larger compute.
        level: capability at one unit of compute.
        r2: share of the variance that compute explains; a family far below 1 does not follow the law.
    """

    name: str
    models: int
    slope: float
    level: float
    r2: float


def families(capability: Array, compute: Array, names: Sequence[str], fewest: int = 3) -> list[Family]:
    """Return a line through every family, the largest families first.

    Args:
        capability: one number for each model.
        compute: of its training, in any unit.
        names: its family.
        fewest: models that a family must have, at different compute.
    """
    capability, compute = np.asarray(capability, dtype=float), np.asarray(compute, dtype=float)
    usable = np.isfinite(capability) & np.isfinite(compute) & (compute > 0)
    member = np.array(names)
    found = []
    for name in np.unique(member):
        mine = usable & (member == name)
        log_compute, level = np.log10(compute[mine]), capability[mine]
        if mine.sum() < fewest or np.ptp(log_compute) == 0:
            continue
        slope, begin = np.polyfit(log_compute, level, 1)
        rest = level - slope * log_compute - begin
        total = float(np.sum((level - level.mean()) ** 2))
        r2 = 1.0 - float(np.sum(rest**2)) / total if total else 0.0
        found.append(Family(str(name), int(mine.sum()), float(slope), float(begin), r2))
    return sorted(found, key=lambda family: (-family.models, family.name))


@dataclass(frozen=True)
class Downstream:
    """A score as a sigmoid of capabilities: floor + (1 - floor) / (1 + exp(-weights . x - offset))."""

    floor: float
    weights: Array
    offset: float

    def predict(self, inputs: Array) -> Array:
        """Return scores [models] for inputs [models, inputs]."""
        share = 0.5 * (1.0 + np.tanh(0.5 * (_table(inputs) @ self.weights + self.offset)))
        return np.asarray(self.floor + (1.0 - self.floor) * share)


def downstream(inputs: Array, scores: Array, highest_floor: float = 0.2) -> Downstream:
    """Fit a score to capabilities, or to the logarithm of compute as one column.

    The floor is fitted and the ceiling is 1, as in ryoungj/ObsScaling: models that are all below the bend do not
    tell the ceiling.

    Args:
        inputs: [models, inputs].
        scores: between 0 and 1, [models].
        highest_floor: the most that guessing may score.

    Raises:
        UserError: if there are too few models or the scores are no shares.
    """
    from scipy.optimize import least_squares

    table, scores = _table(inputs), np.asarray(scores, dtype=float)
    count = table.shape[1] + 2
    if len(table) <= count:
        raise UserError(
            f"a sigmoid of {count - 2} inputs has {count} constants; it takes {count + 1} models or more"
        )
    if not ((scores >= 0) & (scores <= 1)).all():
        raise UserError("the scores of a sigmoid lie between 0 and 1; divide percentages by 100")
    centre, spread = table.mean(axis=0), np.maximum(table.std(axis=0), 1e-12)
    seen = (table - centre) / spread

    def off(place: Array) -> Array:
        share = 0.5 * (1.0 + np.tanh(0.5 * (seen @ place[2:] + place[1])))
        return np.asarray(place[0] + (1.0 - place[0]) * share - scores)

    # A line through the logits is where the search begins; scores at either end are moved in a little.
    begin = min(float(scores.min()), 0.5 * highest_floor)
    inside = np.clip((scores - begin) / (1.0 - begin), 0.01, 0.99)
    design = np.column_stack([np.ones(len(seen)), seen])
    line = np.linalg.lstsq(design, np.log(inside / (1.0 - inside)), rcond=None)[0]
    low = np.concatenate([[0.0], np.full(count - 1, -50.0)])
    high = np.concatenate([[highest_floor + 1e-9], np.full(count - 1, 50.0)])
    start = np.clip(np.concatenate([[begin], line]), low + 1e-12, high - 1e-12)
    end = least_squares(off, start, bounds=(low, high)).x
    weights = end[2:] / spread
    return Downstream(float(end[0]), weights, float(end[1] - centre @ weights))


def _table(inputs: Array) -> Array:
    values = np.asarray(inputs, dtype=float)
    return values[:, None] if values.ndim == 1 else values
