"""The three roads to compute-optimal sizes, side by side: the envelope, the IsoFLOP minima, the surface.

Each says N* ~ C^a. They need not agree: on the same runs they differ by a tenth in the exponent, which is shown
rather than averaged away. What cannot be read off the runs is refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast import laws
from steelyard.forecast.choosing import compare
from steelyard.forecast.fitting import fit
from steelyard.forecast.frontier import frontier
from steelyard.forecast.law import Array
from steelyard.forecast.runs import RunTable
from steelyard.forecast.uncertainty import bootstrap

Refusal = Literal["", "fewer than three sizes", "no interior minimum", "minimum on an edge"]
_SAME = 0.08
"""Budgets within this logarithm of each other are one."""
_NEAR, _FEWEST = 2.0, 5


@dataclass(frozen=True)
class Minimum:
    """The best size for one budget.

    Attributes:
        compute: the budget.
        sizes: how many sizes were trained at it.
        parameters: the best; nan where refused.
        tokens: the best.
        loss: there.
        refusal: why there is none, "" where there is.
    """

    compute: float
    sizes: int
    parameters: float = np.nan
    tokens: float = np.nan
    loss: float = np.nan
    refusal: Refusal = ""


@dataclass(frozen=True)
class Exponent:
    """One road's answer.

    Attributes:
        approach: 1, 2 or 3.
        name: of the road.
        exponent: a in N* ~ C^a; nan where refused.
        low: of its 95 % interval.
        high: its other end.
        coefficient: k in N* = k C^a.
        minima: what the line was drawn through; empty for the surface.
        refusal: why there is no answer.
    """

    approach: int
    name: str
    exponent: float = np.nan
    low: float = np.nan
    high: float = np.nan
    coefficient: float = np.nan
    minima: tuple[Minimum, ...] = ()
    refusal: str = ""

    @property
    def used(self) -> int:
        """Minima that the line was drawn through."""
        return sum(not minimum.refusal for minimum in self.minima)


def approaches(table: RunTable, law: str = "auto", *, bootstraps: int = 200, seed: int = 0) -> list[Exponent]:
    """Return the three answers; each may be a refusal.

    Args:
        table: runs with N, D (or C) and loss.
        law: of the surface; "auto" chooses on held-out compute.
        bootstraps: resamples of the surface.
        seed: of the draws.
    """
    return [envelope(table), isoflop(table), surface(table, law, bootstraps, seed)]


def isoflop(table: RunTable, least: int = 3) -> Exponent:
    """Approach 2: a parabola of loss in ln N for every budget, a line through its minima.

    Args:
        table: runs.
        least: sizes that a budget needs, three at least.
    """
    n, c, loss = table.values("N"), table.compute(), table.values("loss")
    minima = tuple(_parabola(n[group], c[group], loss[group], least) for group in budgets(c))
    return _line(2, "IsoFLOP parabolas", minima)


def budgets(compute: Array) -> list[Array]:
    """Return the rows of every budget: runs whose compute is the same but for rounding."""
    order = np.argsort(compute, kind="stable")
    breaks = np.flatnonzero(np.diff(np.log(compute[order])) > _SAME) + 1
    return list(np.split(order, breaks))


def _parabola(n: Array, c: Array, loss: Array, least: int) -> Minimum:
    budget, sizes = float(np.exp(np.log(c).mean())), len(np.unique(n))
    if sizes < max(3, least):
        return Minimum(budget, sizes, refusal="fewer than three sizes")
    x = np.log(n)
    centre = x[np.argmin(loss)]
    # Far from its minimum the loss is no parabola: runs within a factor of the best, and five at least.
    far = np.abs(x - centre)
    near = far <= max(_NEAR, float(np.sort(far)[min(len(far), _FEWEST) - 1]))
    bend, slope, level = np.polyfit(x[near] - centre, loss[near], 2)
    if bend <= 0:
        return Minimum(budget, sizes, refusal="no interior minimum")
    best = -slope / (2 * bend)
    if centre in (x.min(), x.max()) or not x.min() < best + centre < x.max():
        return Minimum(budget, sizes, refusal="minimum on an edge")
    size = float(np.exp(best + centre))
    return Minimum(budget, sizes, size, budget / (6 * size), float(level - slope**2 / (4 * bend)))


def envelope(table: RunTable, bins: int = 30) -> Exponent:
    """Approach 1: the run of least loss in every bin of compute, a line through their sizes."""
    n, c, loss = table.values("N"), table.compute(), table.values("loss")
    edges = np.geomspace(c.min(), c.max() * (1 + 1e-9), bins + 1)
    place = np.clip(np.searchsorted(edges, c, side="right") - 1, 0, bins - 1)
    minima = []
    lowest = np.inf
    for index in np.unique(place):
        mine = np.flatnonzero(place == index)
        best = mine[np.argmin(loss[mine])]
        sizes = len(np.unique(n[mine]))
        if loss[best] >= lowest:
            # A smaller budget did better: not on the envelope.
            continue
        lowest = loss[best]
        edge = len(np.unique(n)) > 1 and n[best] in (n.min(), n.max())
        refusal: Refusal = "fewer than three sizes" if sizes < 3 else "minimum on an edge" if edge else ""
        minima.append(Minimum(float(c[best]), sizes, n[best], c[best] / (6 * n[best]), float(loss[best]), refusal))
    return _line(1, "envelope of the runs", tuple(minima))


def surface(table: RunTable, law: str = "auto", bootstraps: int = 200, seed: int = 0) -> Exponent:
    """Approach 3: the frontier of a fitted law, with an interval from resampled rows."""
    name = "surface"
    try:
        if law == "auto":
            law = compare(table, seed=seed).best.law
        name = f"surface of {law}"
        found = fit(table.rows(laws.get(law)), seed=seed)
        compute = table.compute()
        ends = np.array([compute.min(), compute.max()])
        best = frontier(found, ends)
    except UserError as error:
        return Exponent(3, name, refusal=str(error))
    drawn = frontier(found, ends, bootstrap(found, bootstraps, seed).coordinates).exponent
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    exponent = float(best.exponent)
    return Exponent(3, name, exponent, float(low), float(high), float(best.parameters[0] / ends[0] ** exponent))


def _line(approach: int, name: str, minima: Sequence[Minimum]) -> Exponent:
    """A line through the logarithms of the minima, by least squares."""
    from scipy.special import stdtrit

    kept = [minimum for minimum in minima if not minimum.refusal]
    if len(kept) < 3:
        reasons = sorted({minimum.refusal for minimum in minima if minimum.refusal})
        why = f"{len(kept)} budgets of {len(minima)} have a minimum between their sizes, and a line takes three"
        return Exponent(approach, name, minima=tuple(minima), refusal=f"{why} ({'; '.join(reasons)})")
    x = np.log([minimum.compute for minimum in kept])
    y = np.log([minimum.parameters for minimum in kept])
    slope, level = np.polyfit(x - x.mean(), y, 1)
    left = len(kept) - 2
    rest = y - level - slope * (x - x.mean())
    error = float(np.sqrt(np.sum(rest**2) / left / np.sum((x - x.mean()) ** 2)))
    half = float(stdtrit(left, 0.975)) * error
    return Exponent(
        approach,
        name,
        float(slope),
        float(slope - half),
        float(slope + half),
        float(np.exp(level - slope * x.mean())),
        tuple(minima),
    )
