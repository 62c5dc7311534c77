"""The loops of rounding to levels that are not evenly spaced, compiled by numba; laid out as those of `_kernels`.

Codes are the places of the levels in their sorted order, kept as int16 [in, rows].
"""

from __future__ import annotations

import numpy as np

from steelyard.edits.quantize._kernels import entry, inner, to_scale


@inner
def _nearest(value: float, middles: np.ndarray) -> int:
    """Return the place of the level nearest to a value, given the middles between neighbours."""
    low, high = 0, middles.size
    while low < high:
        middle = (low + high) >> 1
        if middles[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@entry
def search_scales(
    weight: np.ndarray,
    importance: np.ndarray,
    bounds: np.ndarray,
    levels: np.ndarray,
    middles: np.ndarray,
    factors: np.ndarray,
    polish: int,
    number: np.ndarray,
    scale: np.ndarray,
) -> float:
    """Find the scale of every group that loses the least, and return the sum of what they lose.

    Args:
        weight: float64 [in, rows].
        importance: float64 [in], weights of the squared errors.
        bounds: [groups + 1], first column of each group, then the number of columns.
        levels: float64 [levels], sorted.
        middles: float64 [levels - 1].
        factors: shares of the scale that puts the largest magnitude on the largest level, negative ones for levels
            that reach further on one side.
        polish: rounds of least squares on the codes found, each kept where it helps.
        number: the scale's dtype, see `_kernels.to_scale`.
        scale: float64 [groups, rows], written.
    """
    reach = max(abs(levels[0]), abs(levels[-1]))
    total = 0.0
    for g in range(bounds.size - 1):
        for r in range(weight.shape[1]):
            largest = 0.0
            for j in range(bounds[g], bounds[g + 1]):
                largest = max(largest, abs(weight[j, r]))
            if largest == 0.0:
                scale[g, r] = number[3]
                continue
            best, kept = np.inf, 1.0
            for trial in range(factors.size + polish):
                if trial < factors.size:
                    step = to_scale(factors[trial] * largest / reach, number)
                else:
                    above, below = 0.0, 0.0
                    for j in range(bounds[g], bounds[g + 1]):
                        level = levels[_nearest(weight[j, r] / kept, middles)]
                        above += importance[j] * weight[j, r] * level
                        below += importance[j] * level * level
                    if not below > 0.0:
                        break
                    step = to_scale(above / below, number)
                loss = 0.0
                for j in range(bounds[g], bounds[g + 1]):
                    miss = weight[j, r] - step * levels[_nearest(weight[j, r] / step, middles)]
                    loss += importance[j] * miss * miss
                if loss < best:
                    best, kept = loss, step
            scale[g, r] = kept
            total += best
    return total


@entry
def compensate(
    weight: np.ndarray,
    lower: np.ndarray,
    block: int,
    levels: np.ndarray,
    middles: np.ndarray,
    scale: np.ndarray,
    group: np.ndarray,
    codes: np.ndarray,
    errors: np.ndarray,
) -> None:
    """Round all columns in order, the later ones making up for each error; see `_compensation.compensate`.

    Args:
        weight: float64 [in, rows] in the order of rounding; changed.
        lower: float64 [in, in], transposed Cholesky factor of the inverse second moment in that order.
        block: columns between two matrix products.
        levels: float64 [levels], sorted.
        middles: float64 [levels - 1].
        scale: float64 [groups, rows].
        group: [in], the group of each column.
        codes: int16 [in, rows], written.
        errors: float64 [in, rows], written: (w - q) / lower[j, j].
    """
    columns, rows = weight.shape
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        if start > 0:
            owed = np.dot(lower[start:stop, :start].copy(), errors[:start])
            for j in range(stop - start):
                for r in range(rows):
                    weight[start + j, r] -= owed[j, r]
        for j in range(start, stop):
            g, diagonal = group[j], lower[j, j]
            for r in range(rows):
                place = _nearest(weight[j, r] / scale[g, r], middles)
                codes[j, r] = place
                errors[j, r] = (weight[j, r] - levels[place] * scale[g, r]) / diagonal
            for k in range(j + 1, stop):
                factor = lower[k, j]
                for r in range(rows):
                    weight[k, r] -= factor * errors[j, r]


@entry
def refine(
    residual: np.ndarray,
    hessian: np.ndarray,
    bounds: np.ndarray,
    sweeps: int,
    levels: np.ndarray,
    middles: np.ndarray,
    number: np.ndarray,
    codes: np.ndarray,
    scale: np.ndarray,
) -> None:
    """Lower (w - q)^T H (w - q) of every row: scales by least squares, codes each to the best of all levels.

    Args:
        residual: float64 [in, rows], w - q; kept up to date.
        hessian: float64 [in, in], positive definite.
        bounds: [groups + 1], first column of each group, then the number of columns.
        sweeps: passes over all the groups; ends early when nothing moves.
        levels: float64 [levels], sorted.
        middles: float64 [levels - 1].
        number: the scale's dtype, see `_kernels.to_scale`; zeros where scales are not to move.
        codes: int16 [in, rows], changed in place.
        scale: float64 [groups, rows], changed in place.
    """
    rows = codes.shape[1]
    for _ in range(sweeps):
        moved = False
        for g in range(bounds.size - 1):
            first, last = bounds[g], bounds[g + 1]
            slope = np.dot(hessian[first:last], residual)
            own = hessian[first:last, first:last].copy()
            if number[4] > 0.0:
                level = np.empty((last - first, rows))
                for j in range(last - first):
                    for r in range(rows):
                        level[j, r] = levels[codes[first + j, r]]
                image = np.dot(own, level)
                for r in range(rows):
                    above, below = 0.0, 0.0
                    for j in range(last - first):
                        above += level[j, r] * slope[j, r]
                        below += level[j, r] * image[j, r]
                    if below <= 0.0:
                        continue
                    wanted = scale[g, r] + above / below
                    step = to_scale(wanted, number) - scale[g, r]
                    if step * (2.0 * above - step * below) > 0.0:
                        moved = True
                        scale[g, r] += step
                        for j in range(last - first):
                            residual[first + j, r] -= step * level[j, r]
                            slope[j, r] -= step * image[j, r]
            change = np.empty(rows)
            for j in range(last - first):
                reach = 1.0 / own[j, j]
                anything = False
                for r in range(rows):
                    old = codes[first + j, r]
                    held = levels[old] * scale[g, r]
                    new = _nearest((held + slope[j, r] * reach) / scale[g, r], middles)
                    change[r] = levels[new] * scale[g, r] - held
                    if new != old:
                        anything = True
                        codes[first + j, r] = new
                        residual[first + j, r] -= change[r]
                if anything:
                    moved = True
                    for k in range(j + 1, last - first):
                        factor = own[k, j]
                        for r in range(rows):
                            slope[k, r] -= factor * change[r]
        if not moved:
            return
