"""The search for scales and zero points of a group."""

from __future__ import annotations

import numpy as np

from steelyard.edits.quantize._grid import Grid

# Share of the full range below which shrinking has never paid, by number of codes, and how many shares are tried.
# Few codes gain much from clipping the largest weights, many codes nearly nothing.
_SHARES = {2: (0.2, 24), 3: (0.3, 24), 4: (0.45, 20), 5: (0.6, 16), 6: (0.72, 12), 7: (0.8, 10), 8: (0.86, 8)}
_POLISH = 3


def choose(
    weight: np.ndarray, importance: np.ndarray, grid: Grid, search: bool, scale: np.ndarray, zero: np.ndarray
) -> None:
    """Choose the scales of one group.

    Args:
        weight: float64 [group, out].
        importance: float64 [group], weights of the squared errors.
        grid: of the whole matrix.
        search: whether to search; otherwise they follow from the extremes.
        scale: float64 [out], written.
        zero: float64 [out], written.
    """
    from steelyard.edits.quantize import _kernels

    middle = grid.high / ((grid.high - grid.low) / 2.0)
    if search:
        lowest, count = _SHARES[int(grid.high - grid.low + 1.0).bit_length() - 1]
        # Both usual conventions are among the shares: the full range, and the middle between the two ends.
        factors = np.append(np.geomspace(lowest, 1.0, count), middle)
        shifts = np.array([1.0, -1.0] if grid.symmetric else [0.0, -1.0, 1.0])
    else:
        factors = np.array([middle if grid.symmetric else 1.0])
        shifts = np.array([1.0 if grid.symmetric else 0.0])
    _kernels.search_scales(
        weight,
        importance if importance.max() > 0.0 else np.ones_like(importance),
        grid.low,
        grid.high,
        grid.symmetric,
        factors,
        shifts,
        _POLISH if search else 0,
        grid.number,
        scale,
        zero,
    )


def choose_all(
    weight: np.ndarray, importance: np.ndarray, grid: Grid, search: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return scales and zero points of every group of a matrix, float64 [groups, out] each.

    Args:
        weight: float64 [in, out].
        importance: float64 [in].
        grid: of the matrix.
        search: whether to search; otherwise they follow from the extremes.
    """
    scale = np.empty((grid.groups, weight.shape[1]))
    zero = np.empty_like(scale)
    for g, (start, stop) in enumerate(zip(grid.bounds, grid.bounds[1:], strict=False)):
        choose(weight[start:stop], importance[start:stop], grid, search, scale[g], zero[g])
    return scale, zero
