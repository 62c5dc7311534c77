"""The affine problem of rounding, compiled by numba: scales and zero points of a row, given its codes."""

from __future__ import annotations

import numpy as np

from steelyard.edits.quantize._kernels import PANEL, entry, inner, load, to_code

# Added to the diagonal of the normal equations, as a share of it: groups whose codes are all alike determine one
# number, not two.
_RIDGE = 1e-9


@inner
def _products(panel: np.ndarray, hessian: np.ndarray, bounds: np.ndarray, products: np.ndarray) -> None:
    """Write c_g^T H c_k of every two groups, [groups, groups, lanes], for the codes of a panel [in, lanes]."""
    inside = np.empty(PANEL)
    total = np.empty(PANEL)
    for g in range(bounds.shape[0] - 1):
        for k in range(g + 1):
            for lane in range(PANEL):
                total[lane] = 0.0
            for i in range(bounds[g], bounds[g + 1]):
                for lane in range(PANEL):
                    inside[lane] = 0.0
                for j in range(bounds[k], bounds[k + 1]):
                    h = hessian[i, j]
                    for lane in range(PANEL):
                        inside[lane] += h * panel[j, lane]
                for lane in range(PANEL):
                    total[lane] += panel[i, lane] * inside[lane]
            for lane in range(PANEL):
                products[g, k, lane] = total[lane]
                products[k, g, lane] = total[lane]


@inner
def _solve(products: np.ndarray, right: np.ndarray) -> bool:
    """Solve in place by Cholesky factors; the solution replaces `right`. False if not positive definite."""
    count = products.shape[0]
    for i in range(count):
        products[i, i] += _RIDGE * products[i, i]
    for j in range(count):
        for k in range(j):
            for i in range(j, count):
                products[i, j] -= products[i, k] * products[j, k]
        if not products[j, j] > 0.0:
            return False
        root = np.sqrt(products[j, j])
        for i in range(j, count):
            products[i, j] /= root
    for i in range(count):
        for k in range(i):
            right[i] -= products[i, k] * right[k]
        right[i] /= products[i, i]
    for i in range(count - 1, -1, -1):
        for k in range(i + 1, count):
            right[i] -= products[k, i] * right[k]
        right[i] /= products[i, i]
    return True


@inner
def _zero_points(
    both: np.ndarray,
    first: np.ndarray,
    none: np.ndarray,
    seen: np.ndarray,
    plain: np.ndarray,
    low: float,
    high: float,
    zero: np.ndarray,
) -> None:
    """Move one row's zero points [groups] to the nearest integers of the joint optimum w = a * code + b.

    Args:
        both: [groups, groups], c_g^T H c_k.
        first: [groups, groups], c_g^T H 1_k.
        none: [groups, groups], 1_g^T H 1_k.
        seen: [groups], c_g^T H w.
        plain: [groups], 1_g^T H w.
        low: smallest code.
        high: largest code.
        zero: [groups], changed in place.
    """
    groups = len(zero)
    products = np.empty((2 * groups, 2 * groups))
    right = np.empty(2 * groups)
    for g in range(groups):
        right[g], right[groups + g] = seen[g], plain[g]
        for k in range(groups):
            products[g, k], products[g, groups + k] = both[g, k], first[g, k]
            products[groups + g, k], products[groups + g, groups + k] = first[k, g], none[g, k]
    if _solve(products, right):
        for g in range(groups):
            if right[g] > 0.0:
                free = -right[groups + g] / right[g]
                zero[g] = to_code(free, low, high) if high > 0.0 else free  # of 1 bit they are no codes


@inner
def _scales_of(
    both: np.ndarray,
    first: np.ndarray,
    none: np.ndarray,
    seen: np.ndarray,
    plain: np.ndarray,
    zero: np.ndarray,
    scale: np.ndarray,
) -> None:
    """Move one row's scales [groups] to the optimum under its zero points; see `_zero_points`."""
    groups = len(zero)
    products = np.empty((groups, groups))
    right = np.empty(groups)
    for g in range(groups):
        right[g] = seen[g] - zero[g] * plain[g]
        for k in range(groups):
            products[g, k] = (
                both[g, k] - zero[k] * first[g, k] - zero[g] * first[k, g] + zero[g] * zero[k] * none[g, k]
            )
    for g in range(groups):
        # Codes that all equal their zero point need no scale.
        if products[g, g] <= _RIDGE * both[g, g]:
            for k in range(groups):
                products[g, k] = products[k, g] = 0.0
            products[g, g] = 1.0
            right[g] = scale[g]
    if _solve(products, right):
        for g in range(groups):
            if right[g] != 0.0:
                scale[g] = right[g]


@entry
def solve(
    codes: np.ndarray,
    image: np.ndarray,
    hessian: np.ndarray,
    bounds: np.ndarray,
    low: float,
    high: float,
    symmetric: bool,
    scale: np.ndarray,
    zero: np.ndarray,
) -> None:
    """Minimize (w - q)^T H (w - q) of every row over the scales and zero points of all its groups together.

    Args:
        codes: [in, rows].
        image: [in, rows], H w.
        hessian: [in, in], positive definite.
        bounds: [groups + 1], first column of each group, then the number of columns.
        low: smallest code.
        high: largest code.
        symmetric: whether the zero points stay 0.
        scale: [groups, rows], changed in place to real numbers; a group without levels keeps its own.
        zero: [groups, rows], changed in place.
    """
    columns, rows = codes.shape
    groups = bounds.shape[0] - 1
    summed = np.zeros((columns, groups))
    none = np.zeros((groups, groups))
    for k in range(groups):
        for i in range(columns):
            for j in range(bounds[k], bounds[k + 1]):
                summed[i, k] += hessian[i, j]
        for g in range(groups):
            for i in range(bounds[g], bounds[g + 1]):
                none[g, k] += summed[i, k]
    panel = np.empty((columns, PANEL))
    products = np.empty((groups, groups, PANEL))
    both, first = np.empty((groups, groups)), np.empty((groups, groups))
    seen, plain = np.empty(groups), np.empty(groups)
    row_scale, row_zero = np.empty(groups), np.empty(groups)
    for start in range(0, rows, PANEL):
        load(codes, start, panel)
        _products(panel, hessian, bounds, products)
        for lane in range(min(PANEL, rows - start)):
            for g in range(groups):
                row_scale[g], row_zero[g] = scale[g, start + lane], zero[g, start + lane]
                seen[g] = plain[g] = 0.0
                for i in range(bounds[g], bounds[g + 1]):
                    seen[g] += panel[i, lane] * image[i, start + lane]
                    plain[g] += image[i, start + lane]
                for k in range(groups):
                    both[g, k] = products[g, k, lane]
                    first[g, k] = 0.0
                for i in range(bounds[g], bounds[g + 1]):
                    for k in range(groups):
                        first[g, k] += panel[i, lane] * summed[i, k]
            if not symmetric:
                _zero_points(both, first, none, seen, plain, low, high, row_zero)
            _scales_of(both, first, none, seen, plain, row_zero, row_scale)
            for g in range(groups):
                scale[g, start + lane], zero[g, start + lane] = row_scale[g], row_zero[g]
