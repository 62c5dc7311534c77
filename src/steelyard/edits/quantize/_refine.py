"""Descent on scales and codes after rounding: each step has a closed form and never raises the error."""

from __future__ import annotations

import numpy as np

from steelyard.edits.quantize._grid import Grid

# Columns whose codes move between two matrix products.
_BLOCK = 64


def decode(grid: Grid, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Return the float64 weights [in, out] of codes [in, out], scales and zero points [groups, out]."""
    group = grid.group_of()
    decoded: np.ndarray = (codes - zero[group]) * scale[group]
    return decoded


def refine(
    weight: np.ndarray,
    grid: Grid,
    hessian: np.ndarray,
    sweeps: int,
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
) -> None:
    """Lower (w - q)^T H (w - q) of every row, group after group.

    For each group the scale moves to its least-squares optimum given all the codes, rounded to its dtype and kept
    if the error falls; then each code of the group moves to the best value given everything else.

    Args:
        weight: float64 [in, out].
        grid: of the matrix.
        hessian: float64 [in, in], positive definite.
        sweeps: passes over all the groups; ends early when nothing moves.
        codes: float64 [in, out], changed in place.
        scale: float64 [groups, out], changed in place.
        zero: float64 [groups, out].
    """
    from steelyard.edits.quantize import _kernels

    residual = weight - decode(grid, codes, scale, zero)
    for _ in range(sweeps):
        moved = False
        for g, (first, last) in enumerate(zip(grid.bounds, grid.bounds[1:], strict=False)):
            group = slice(first, last)
            slope = hessian[group] @ residual
            image = hessian[group, group] @ (codes[group] - zero[g])
            moved |= _kernels.refit_scales(
                slope, image, grid.number, codes[group], scale[g], zero[g], residual[group]
            )
            for start in range(first, last, _BLOCK):
                block = slice(start, min(start + _BLOCK, last))
                if last - first > _BLOCK:
                    slope = hessian[block] @ residual
                moved |= _kernels.move_codes(
                    slope,
                    hessian[block, block],
                    grid.low,
                    grid.high,
                    codes[block],
                    scale[g],
                    zero[g],
                    residual[block],
                )
        if not moved:
            return
