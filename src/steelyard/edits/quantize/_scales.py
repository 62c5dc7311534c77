"""The search for scales and zero points of a group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.edits.quantize._grid import Grid

# Share of the full range below which shrinking has never paid, by number of codes, and how many shares are tried.
# Few codes gain much from clipping the largest weights, many codes nearly nothing.
_SHARES = {
    1: (0.1, 24),
    2: (0.2, 24),
    3: (0.3, 24),
    4: (0.45, 20),
    5: (0.6, 16),
    6: (0.72, 12),
    7: (0.8, 10),
    8: (0.86, 8),
}
_POLISH = 3


@dataclass(frozen=True)
class Search:
    """What to try for every group.

    Attributes:
        factors: shares of the full range.
        shifts: offsets of the zero point around the centred one; signs of the scale if symmetric.
        polish: rounds of least squares on the codes found.
    """

    factors: np.ndarray
    shifts: np.ndarray
    polish: int

    @classmethod
    def of(cls, grid: Grid, search: bool) -> Search:
        """Return the search for a grid; without `search` only the scale that follows from the extremes is taken."""
        middle = (grid.high - grid.centre) / ((grid.high - grid.low) / 2.0)
        if not search:
            if grid.symmetric:
                return cls(np.array([middle]), np.ones(1), 0)
            return cls(np.ones(1), np.zeros(1), 0)
        lowest, count = _SHARES[int(grid.high - grid.low + 1.0).bit_length() - 1]
        # Both usual conventions are among the shares: the full range, and the middle between the two ends.
        factors = np.append(np.geomspace(lowest, 1.0, count), middle)
        return cls(factors, np.array([1.0, -1.0] if grid.symmetric else [0.0, -1.0, 1.0]), _POLISH)


def choose(weight: np.ndarray, importance: np.ndarray, grid: Grid, search: Search) -> tuple[np.ndarray, np.ndarray]:
    """Return scales and zero points of every group of a matrix, float64 [groups, out] each.

    Args:
        weight: float64 [in, out].
        importance: float64 [in].
        grid: of the matrix.
        search: what to try.
    """
    from steelyard.edits.quantize import _kernels

    scale = np.empty((grid.groups, weight.shape[1]))
    zero = np.empty_like(scale)
    _kernels.search_scales(
        weight,
        importance,
        grid.bounds,
        grid.low,
        grid.high,
        grid.symmetric,
        search.factors,
        search.shifts,
        search.polish,
        grid.number,
        scale,
        zero,
    )
    return scale, zero
