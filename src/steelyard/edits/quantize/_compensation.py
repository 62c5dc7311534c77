"""The loops of error compensation and of the descent after it, compiled by numba; see `_kernels`."""

from __future__ import annotations

import numpy as np

from steelyard.edits.quantize._kernels import PANEL, entry, inner, load, to_code, to_scale


@inner
def _store(panel: np.ndarray, start: int, target: np.ndarray) -> None:
    """Copy a panel back into [columns, rows]."""
    lanes = min(PANEL, target.shape[1] - start)
    for j in range(target.shape[0]):
        for i in range(lanes):
            target[j, start + i] = panel[j, i]


@inner
def _compensate_block(
    weight: np.ndarray,
    lower: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    group: np.ndarray,
    low: float,
    high: float,
    codes: np.ndarray,
    errors: np.ndarray,
) -> None:
    """Round the columns of one block in order, spreading each error over the later columns of the block.

    Args:
        weight: [block, rows].
        lower: [block, block], the block's own part of the transposed Cholesky factor.
        scale: [groups, rows].
        zero: [groups, rows].
        group: [block], the group of each column.
        low: smallest code.
        high: largest code.
        codes: [block, rows], written.
        errors: [block, rows], written: (w - q) / lower[j, j].
    """
    columns, rows = weight.shape
    panel = np.empty((columns, PANEL))
    panel_codes = np.empty((columns, PANEL))
    panel_errors = np.empty((columns, PANEL))
    panel_scale = np.ones((scale.shape[0], PANEL))
    panel_zero = np.zeros((scale.shape[0], PANEL))
    for start in range(0, rows, PANEL):
        load(weight, start, panel)
        lanes = min(PANEL, rows - start)
        for g in range(scale.shape[0]):
            for i in range(lanes):
                panel_scale[g, i] = scale[g, start + i]
                panel_zero[g, i] = zero[g, start + i]
        for j in range(columns):
            g = group[j]
            diagonal = lower[j, j]
            for i in range(PANEL):
                code = to_code(panel[j, i] / panel_scale[g, i] + panel_zero[g, i], low, high)
                panel_codes[j, i] = code
                panel_errors[j, i] = (panel[j, i] - (code - panel_zero[g, i]) * panel_scale[g, i]) / diagonal
            for k in range(j + 1, columns):
                factor = lower[k, j]
                for i in range(PANEL):
                    panel[k, i] -= factor * panel_errors[j, i]
        _store(panel_codes, start, codes)
        _store(panel_errors, start, errors)


@inner
def _tile(matrix: np.ndarray, first_row: int, last_row: int, first_column: int, last_column: int) -> np.ndarray:
    """Return a part of a matrix as an array of its own, which matrix products need."""
    tile = np.empty((last_row - first_row, last_column - first_column))
    for i in range(tile.shape[0]):
        for j in range(tile.shape[1]):
            tile[i, j] = matrix[first_row + i, first_column + j]
    return tile


@entry
def compensate(
    weight: np.ndarray,
    lower: np.ndarray,
    first: int,
    last: int,
    block: int,
    scale: np.ndarray,
    zero: np.ndarray,
    group: np.ndarray,
    low: float,
    high: float,
    codes: np.ndarray,
    errors: np.ndarray,
) -> None:
    """Round columns `first` to `last` in order, given those before them, the later ones making up for each error.

    Args:
        weight: [in, rows] in the order of rounding; the columns rounded are changed.
        lower: [in, in], transposed Cholesky factor of the inverse second moment in that order.
        first: first column to round; all before it have been rounded.
        last: column after the last to round.
        block: columns between two matrix products.
        scale: [groups, rows].
        zero: [groups, rows].
        group: [in], the group of each column.
        low: smallest code.
        high: largest code.
        codes: [in, rows], written.
        errors: [in, rows], (w - q) / lower[j, j] of the columns before `first`; written for the rest.
    """
    for start in range(first, last, block):
        stop = min(start + block, last)
        if start > 0:
            # What the errors so far have left to this block, in one product: everything before it is final.
            owed = np.dot(_tile(lower, start, stop, 0, start), errors[:start])
            for j in range(stop - start):
                for r in range(owed.shape[1]):
                    weight[start + j, r] -= owed[j, r]
        _compensate_block(
            weight[start:stop],
            lower[start:stop, start:stop],
            scale,
            zero,
            group[start:stop],
            low,
            high,
            codes[start:stop],
            errors[start:stop],
        )


@inner
def _refit_scales(
    slope: np.ndarray,
    image: np.ndarray,
    number: np.ndarray,
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    residual: np.ndarray,
) -> bool:
    """Move the scale of one group to its least-squares optimum given all the codes, where that lowers the error.

    Args:
        slope: [group, rows], H (w - q) at the group's columns; kept up to date.
        image: [group, rows], H (codes - zero) at the group's columns, over the group's columns.
        number: the scale's dtype, see `to_scale`.
        codes: [group, rows].
        scale: [rows], changed in place.
        zero: [rows].
        residual: [group, rows], w - q; kept up to date.

    Returns:
        Whether any scale changed.
    """
    columns, rows = codes.shape
    above = np.zeros(rows)
    below = np.zeros(rows)
    step = np.zeros(rows)
    for j in range(columns):
        for r in range(rows):
            level = codes[j, r] - zero[r]
            above[r] += level * slope[j, r]
            below[r] += level * image[j, r]
    moved = 0.0
    for r in range(rows):
        old = scale[r]
        new = to_scale(old + above[r] / below[r], number) if below[r] > 0.0 else old
        gain = (new - old) * (2.0 * above[r] - (new - old) * below[r])
        step[r] = new - old if gain > 0.0 else 0.0
        scale[r] = new if gain > 0.0 else old
        moved = max(moved, abs(step[r]))
    if moved > 0.0:
        for j in range(columns):
            for r in range(rows):
                residual[j, r] -= step[r] * (codes[j, r] - zero[r])
                slope[j, r] -= step[r] * image[j, r]
    return moved > 0.0


@inner
def _move_codes(
    slope: np.ndarray,
    hessian: np.ndarray,
    low: float,
    high: float,
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    residual: np.ndarray,
) -> bool:
    """Move each code of a block of columns, one after the other, to the best value given all the others.

    Args:
        slope: [block, rows], H (w - q) at the block's columns.
        hessian: [block, block], H at the block's columns.
        low: smallest code.
        high: largest code.
        codes: [block, rows], changed in place.
        scale: [rows], of the one group that all the columns belong to.
        zero: [rows].
        residual: [block, rows], w - q; kept up to date.

    Returns:
        Whether any code changed.
    """
    columns, rows = codes.shape
    panel = np.empty((columns, PANEL))
    step = np.zeros(PANEL)
    inverse = np.ones(PANEL)
    anything = False
    for start in range(0, rows, PANEL):
        lanes = min(PANEL, rows - start)
        load(slope, start, panel)
        for i in range(PANEL):
            step[i] = 0.0
        for i in range(lanes):
            inverse[i] = 1.0 / scale[start + i]
        for j in range(columns):
            reach = 1.0 / hessian[j, j]
            moved = 0.0
            for i in range(lanes):
                old = codes[j, start + i]
                new = to_code(old + panel[j, i] * reach * inverse[i], low, high)
                step[i] = (new - old) * scale[start + i]
                codes[j, start + i] = new
                residual[j, start + i] -= step[i]
                moved = max(moved, abs(step[i]))
            if moved > 0.0:
                anything = True
                for k in range(columns):
                    h = hessian[j, k]
                    for i in range(PANEL):
                        panel[k, i] -= h * step[i]
    return anything


@entry
def refine(
    residual: np.ndarray,
    hessian: np.ndarray,
    bounds: np.ndarray,
    block: int,
    sweeps: int,
    low: float,
    high: float,
    number: np.ndarray,
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
) -> None:
    """Lower (w - q)^T H (w - q) of every row, group after group.

    For each group the scale moves to its least-squares optimum given all the codes, rounded to its dtype and kept
    if the error falls; then each code of the group moves to the best value given everything else.

    Args:
        residual: [in, rows], w - q; kept up to date.
        hessian: [in, in], positive definite.
        bounds: [groups + 1], first column of each group, then the number of columns.
        block: columns whose codes move between two matrix products.
        sweeps: passes over all the groups; ends early when nothing moves.
        low: smallest code.
        high: largest code.
        number: the scale's dtype, see `to_scale`.
        codes: [in, rows], changed in place.
        scale: [groups, rows], changed in place.
        zero: [groups, rows].
    """
    for _ in range(sweeps):
        moved = False
        for g in range(bounds.shape[0] - 1):
            first, last = bounds[g], bounds[g + 1]
            slope = np.dot(hessian[first:last], residual)
            level = np.empty((last - first, codes.shape[1]))
            for j in range(level.shape[0]):
                for r in range(level.shape[1]):
                    level[j, r] = codes[first + j, r] - zero[g, r]
            image = np.dot(_tile(hessian, first, last, first, last), level)
            if _refit_scales(slope, image, number, codes[first:last], scale[g], zero[g], residual[first:last]):
                moved = True
            for start in range(first, last, block):
                stop = min(start + block, last)
                if last - first > block:
                    slope = np.dot(hessian[start:stop], residual)
                if _move_codes(
                    slope,
                    hessian[start:stop, start:stop],
                    low,
                    high,
                    codes[start:stop],
                    scale[g],
                    zero[g],
                    residual[start:stop],
                ):
                    moved = True
        if not moved:
            return
