"""Rounding to sorted levels under one scale for each group: what power codes, tables of values and trits share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.edits.quantize._grid import stored
from steelyard.edits.quantize.statistics import Factor

# Shares of the scale of the extremes that are tried, by the number of levels.
_SHARES = {3: (0.2, 20), 4: (0.2, 20), 8: (0.35, 20), 16: (0.5, 18), 32: (0.65, 14)}
_POLISH = 3


@dataclass(frozen=True)
class Levels:
    """Where the weights of one matrix may be rounded to.

    Attributes:
        values: float64 [levels], sorted, without equal ones.
        bounds: int64 [groups + 1], first column of each group, then the number of columns.
        number: the scale's dtype, as `_kernels.to_scale` wants it.
    """

    values: np.ndarray
    bounds: np.ndarray
    number: np.ndarray

    @property
    def middles(self) -> np.ndarray:
        """Halfway between neighbours, float64 [levels - 1]."""
        result: np.ndarray = (self.values[1:] + self.values[:-1]) / 2
        return result

    @property
    def lopsided(self) -> bool:
        """Whether a negative scale makes other levels of them."""
        return not np.array_equal(self.values, -self.values[::-1])

    def stored(self, scale: np.ndarray) -> np.ndarray:
        """Return scales as they will be read back: the nearest numbers of their dtype, none of them 0; float64."""
        return stored(scale, self.number)

    def group_of(self) -> np.ndarray:
        """Return the group of every column, int64 [in]."""
        return np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds))

    def decode(self, codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return the values of codes [in, rows] under scales [groups, rows], float64."""
        result: np.ndarray = self.values[codes] * scale[self.group_of()]
        return result


def bounds_of(columns: int, group: int | None) -> np.ndarray:
    """Return the first column of each group, then the number of columns."""
    return np.append(np.arange(0, columns, group or columns), columns)


def scales(rows: np.ndarray, importance: np.ndarray, levels: Levels, search: bool) -> tuple[np.ndarray, float]:
    """Return the scales of every group [groups, rows] and the weighted squared error under them.

    Args:
        rows: float64 [in, rows].
        importance: float64 [in].
        levels: of the matrix.
        search: whether to look for the least error; otherwise the extremes of each group give its scale.
    """
    from steelyard.edits.quantize import _level_loops

    lowest, count = _SHARES.get(len(levels.values), (0.3, 20) if len(levels.values) < 16 else (0.75, 12))
    factors = np.geomspace(lowest, 1.05, count) if search else np.ones(1)
    if search and levels.lopsided:
        factors = np.concatenate([factors, -factors])
    scale = np.empty((len(levels.bounds) - 1, rows.shape[1]))
    lost = _level_loops.search_scales(
        rows,
        importance,
        levels.bounds,
        levels.values,
        levels.middles,
        factors,
        _POLISH if search else 0,
        levels.number,
        scale,
    )
    return scale, float(lost)


def nearest(rows: np.ndarray, scale: np.ndarray, levels: Levels) -> np.ndarray:
    """Return the nearest codes, int16 [in, rows]."""
    found: np.ndarray = np.searchsorted(levels.middles, rows / scale[levels.group_of()]).astype(np.int16)
    return found


def compensated(
    rows: np.ndarray, scale: np.ndarray, levels: Levels, factor: Factor, block: int, sweeps: int
) -> np.ndarray:
    """Return codes [in, rows] rounded column by column and refined; scales move in place."""
    from steelyard.edits.quantize import _level_loops

    work = rows[factor.order]
    ordered = np.empty(work.shape, np.int16)
    _level_loops.compensate(
        work,
        factor.lower,
        block,
        levels.values,
        levels.middles,
        scale,
        levels.group_of()[factor.order],
        ordered,
        np.empty_like(work),
    )
    codes = np.empty_like(ordered)
    codes[factor.order] = ordered
    refined(rows, codes, scale, levels, factor, sweeps)
    return codes


def refined(
    rows: np.ndarray, codes: np.ndarray, scale: np.ndarray, levels: Levels, factor: Factor, sweeps: int
) -> None:
    """Lower (w - q)^T H (w - q) in place, codes moving over all levels and scales by least squares."""
    from steelyard.edits.quantize import _level_loops

    residual = rows - levels.decode(codes, scale)
    _level_loops.refine(
        residual,
        factor.hessian,
        levels.bounds,
        sweeps,
        levels.values,
        levels.middles,
        levels.number,
        codes,
        scale,
    )


def lost(rows: np.ndarray, codes: np.ndarray, scale: np.ndarray, levels: Levels, hessian: np.ndarray) -> float:
    """Return the sum over rows of (w - q)^T H (w - q)."""
    miss = rows - levels.decode(codes, scale)
    return float(np.einsum("ir,ir->", miss, hessian @ miss))
