"""The loops of error compensation and of the descent after it, compiled by numba; see `_kernels`."""

from __future__ import annotations

import numpy as np

from steelyard.edits.quantize._kernels import PANEL, entry, inner, load, search_group, to_code, to_scale


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
    upper: np.ndarray,
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
        upper: [block, block], the block's own part of the Cholesky factor.
        scale: [groups, rows].
        zero: [groups, rows].
        group: [block], the group of each column.
        low: smallest code.
        high: largest code.
        codes: [block, rows], written.
        errors: [block, rows], written: (w - q) / upper[j, j].
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
            diagonal = upper[j, j]
            for i in range(PANEL):
                code = to_code(panel[j, i] / panel_scale[g, i] + panel_zero[g, i], low, high)
                panel_codes[j, i] = code
                panel_errors[j, i] = (panel[j, i] - (code - panel_zero[g, i]) * panel_scale[g, i]) / diagonal
            for k in range(j + 1, columns):
                factor = upper[j, k]
                for i in range(PANEL):
                    panel[k, i] -= factor * panel_errors[j, i]
        _store(panel_codes, start, codes)
        _store(panel_errors, start, errors)


@entry
def compensate(
    weight: np.ndarray,
    upper: np.ndarray,
    starts: np.ndarray,
    searched: np.ndarray,
    importance: np.ndarray,
    group: np.ndarray,
    bounds: np.ndarray,
    low: float,
    high: float,
    symmetric: bool,
    factors: np.ndarray,
    shifts: np.ndarray,
    polish: int,
    number: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    codes: np.ndarray,
) -> None:
    """Round all columns in order, the later ones making up for each error.

    Args:
        weight: [in, rows] in the order of rounding; changed.
        upper: [in, in], Cholesky factor of the inverse second moment in that order.
        starts: [blocks + 1], first column of each block, then the number of columns.
        searched: [blocks], the group whose scales are to be searched when its block comes; -1 for none.
        importance: [in] in the order of rounding.
        group: [in], the group of each column.
        bounds: [groups + 1], first column of each group, then the number of columns.
        low: smallest code.
        high: largest code.
        symmetric: whether the zero point is 0.
        factors: see `search_group`.
        shifts: see `search_group`.
        polish: see `search_group`.
        number: the scale's dtype, see `to_scale`.
        scale: [groups, rows]; written for the groups in `searched`.
        zero: [groups, rows]; written for the groups in `searched`.
        codes: [in, rows], written.
    """
    errors = np.empty_like(weight)
    for b in range(starts.shape[0] - 1):
        start, stop = starts[b], starts[b + 1]
        if start > 0:
            # What the errors so far have left to this block, in one product: everything before it is final.
            weight[start:stop] -= np.dot(np.ascontiguousarray(upper[:start, start:stop].T), errors[:start])
        g = searched[b]
        if g >= 0:
            last = bounds[g + 1]
            now = weight[start:last].copy()
            if start > 0 and last > stop:
                now[stop - start :] -= np.dot(np.ascontiguousarray(upper[:start, stop:last].T), errors[:start])
            search_group(
                now,
                importance[start:last],
                low,
                high,
                symmetric,
                factors,
                shifts,
                polish,
                number,
                scale[g],
                zero[g],
            )
        _compensate_block(
            weight[start:stop],
            upper[start:stop, start:stop],
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
            image = np.dot(np.ascontiguousarray(hessian[first:last, first:last]), codes[first:last] - zero[g])
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
