"""Grids of learning rate and batch: what a rule loses on them, how wide the basin is, a rule of one's own.

The coefficients of such rules are not identified by grids, but what following them costs is. So a rule is scored by
regret: the loss at the point it chooses over the best loss of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.law import Array
from steelyard.forecast.rules import Rule
from steelyard.forecast.runs import RunTable

BASIN = 0.002
_LEAST = 5


@dataclass(frozen=True)
class Grid:
    """Runs of one model on one amount of data.

    Attributes:
        parameters: N.
        tokens: D.
        rate: learning rates, [runs].
        batch: tokens of a step, [runs].
        loss: [runs].
    """

    parameters: float
    tokens: float
    rate: Array
    batch: Array
    loss: Array

    @property
    def best(self) -> int:
        """The run of least loss."""
        return int(np.argmin(self.loss))

    def basin(self, width: float = BASIN) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the ranges of learning rate and of batch whose runs lose at most a share `width`."""
        near = self.loss <= self.loss.min() * (1 + width)
        return (
            (float(self.rate[near].min()), float(self.rate[near].max())),
            (float(self.batch[near].min()), float(self.batch[near].max())),
        )

    def regret(self, rate: float, batch: float) -> float:
        """Return the relative excess loss of the run nearest to a choice, by the logarithms of both."""
        far = np.log(self.rate / rate) ** 2 + np.log(self.batch / batch) ** 2
        return float(self.loss[np.argmin(far)] / self.loss.min() - 1)

    def surface_regret(self, rate: float, batch: float) -> float:
        """Return the excess loss on a quadratic fitted to the better half of the runs; nan where it has no minimum.

        The choice is moved into the range of the grid first.
        """
        place = np.log([np.clip(rate, *_ends(self.rate)), np.clip(batch, *_ends(self.batch))])
        points = np.stack([np.log(self.rate), np.log(self.batch)], axis=1)
        kept = self.loss <= np.quantile(self.loss, 0.5)
        centre = points[kept].mean(axis=0)
        if kept.sum() < 7:
            return float("nan")
        coefficients, *_ = np.linalg.lstsq(_quadratic(points[kept] - centre), self.loss[kept], rcond=None)
        bend = np.array([[2 * coefficients[3], coefficients[4]], [coefficients[4], 2 * coefficients[5]]])
        if np.linalg.eigvalsh(bend).min() <= 0:
            return float("nan")
        lowest = -np.linalg.solve(bend, coefficients[1:3])
        low = _quadratic(lowest[None])[0] @ coefficients
        return float(_quadratic((place - centre)[None])[0] @ coefficients / low - 1)


@dataclass(frozen=True)
class RuleScore:
    """A rule on grids.

    Attributes:
        rule: its name.
        regrets: on every grid, as fractions.
        inside: share of grids where its choice lies in the basin, by the nearest run.
    """

    rule: str
    regrets: Array
    inside: float

    @property
    def mean(self) -> float:
        """Mean regret."""
        return float(self.regrets.mean())

    @property
    def worst(self) -> float:
        """Largest regret."""
        return float(self.regrets.max())


def grids_of(table: RunTable, sequence: float = 1.0) -> list[Grid]:
    """Return the grids of a table with N, D, lr, batch and loss.

    Args:
        table: the runs.
        sequence: tokens of a sequence, where batches are counted in those.

    Raises:
        UserError: if no pair of N and D has five runs at least.
    """
    n, d = table.values("N"), table.values("D")
    rate, batch, loss = table.values("lr"), table.values("batch") * sequence, table.values("loss")
    found = []
    for size, tokens in np.unique(np.stack([n, d], axis=1), axis=0):
        mine = (n == size) & (d == tokens)
        if mine.sum() >= _LEAST:
            found.append(Grid(float(size), float(tokens), rate[mine], batch[mine], loss[mine]))
    if not found:
        raise UserError(f"{table.source}: no model and amount of data has {_LEAST} runs of different lr or batch")
    return found


def score(rule: Rule, grids: Sequence[Grid]) -> RuleScore:
    """Return the regrets of a rule."""
    regrets = np.array([grid.regret(*map(float, rule(grid.parameters, grid.tokens))) for grid in grids])
    return RuleScore(rule.name, regrets, float(np.mean(regrets <= BASIN)))


@dataclass(frozen=True)
class Fitted:
    """A rule fitted to grids: lr = rate[0] N^rate[1] D^rate[2], batch = batch[0] D^batch[1].

    Attributes:
        rule: what can be scored.
        rate: constants of the learning rate.
        batch: constants of the batch.
        rate_errors: standard errors of its exponents, over resampled grids.
        batch_errors: likewise.
        points: runs in the basins that it was fitted to.
    """

    rule: Rule
    rate: tuple[float, float, float]
    batch: tuple[float, float]
    rate_errors: tuple[float, float]
    batch_errors: tuple[float]
    points: int


def fit_rule(grids: Sequence[Grid], width: float = 0.0025, resamples: int = 200, seed: int = 0) -> Fitted:
    """Fit Step law's form to the runs within `width` of each grid's best, by least squares of logarithms.

    Raises:
        UserError: if the grids do not vary in both N and D.
    """
    from steelyard.seeds import generator

    if len({grid.parameters for grid in grids}) < 2 or len({grid.tokens for grid in grids}) < 2:
        raise UserError("a rule takes grids of at least two sizes and two amounts of data")
    rate, batch = _exponents(grids, width)
    draw = generator(seed, "forecast rule")
    drawn = []
    for _ in range(resamples):
        chosen = [grids[i] for i in draw.integers(0, len(grids), len(grids))]
        if len({grid.parameters for grid in chosen}) > 1 and len({grid.tokens for grid in chosen}) > 1:
            drawn.append(np.concatenate(_exponents(chosen, width)))
    errors = np.std(drawn, axis=0)
    k, by_n, by_d = float(np.exp(rate[0])), float(rate[1]), float(rate[2])
    level, slope = float(np.exp(batch[0])), float(batch[1])
    rule = Rule(
        "fitted",
        "these grids",
        lambda n, d: k * n**by_n * d**by_d,
        lambda n, d: level * d**slope + 0 * n,
        f"lr = {k:.4g} N^{by_n:.4f} D^{by_d:.4f}, batch = {level:.4g} D^{slope:.4f}",
    )
    points = sum(int((grid.loss <= grid.loss.min() * (1 + width)).sum()) for grid in grids)
    return Fitted(
        rule,
        (k, by_n, by_d),
        (level, slope),
        (float(errors[1]), float(errors[2])),
        (float(errors[4]),),
        points,
    )


def _exponents(grids: Sequence[Grid], width: float) -> tuple[Array, Array]:
    sizes, tokens, rates, batches = [], [], [], []
    for grid in grids:
        near = grid.loss <= grid.loss.min() * (1 + width)
        sizes += [np.log(grid.parameters)] * int(near.sum())
        tokens += [np.log(grid.tokens)] * int(near.sum())
        rates += np.log(grid.rate[near]).tolist()
        batches += np.log(grid.batch[near]).tolist()
    ones = np.ones(len(sizes))
    rate, *_ = np.linalg.lstsq(np.stack([ones, sizes, tokens], axis=1), np.array(rates), rcond=None)
    batch, *_ = np.linalg.lstsq(np.stack([ones, tokens], axis=1), np.array(batches), rcond=None)
    return rate, batch


def _quadratic(points: Array) -> Array:
    x, y = points[:, 0], points[:, 1]
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _ends(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())
