"""The loops of rounding and of the search for scales, compiled by numba. Imported only by code that rounds.

Everything is laid out transposed, [in, out] in float64, so that the innermost loop runs over independent rows of
the weight and fills the vector registers without reordering a single sum: results are the same on every
processor and for any number of threads. Codes are kept as float64 until the end for the same reason.

An entry does all its work on a matrix in one call, matrix products included, without the interpreter's lock:
threads that round different matrices meet only a few times for each. numba's cache notices changes of an entry's
own file only: after a change here, touch `_compensation.py` too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# Rows handled together: a multiple of every vector width, and few enough for a panel to stay in the first cache.
# A panel is copied into a buffer of exactly this width (spare lanes hold harmless numbers): loops of constant
# length from zero are what the compiler turns into vector instructions.
PANEL = 32

# Adding and subtracting 1.5 * 2^52 rounds a float64 to the nearest integer, halves to even.
_INTEGER = 6755399441055744.0


def inner(function: Kernel) -> Kernel:
    """Compile as part of the kernels that call it."""
    return cast(Kernel, numba.njit(nogil=True, error_model="numpy")(function))


def entry(function: Kernel) -> Kernel:
    """Compile at the first call and keep the result on disk where a folder for it can be written."""
    try:
        return cast(Kernel, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:
        return inner(function)


@inner
def to_code(value: float, low: float, high: float) -> float:
    """Round to the nearest integer and clip to the codes."""
    clipped = min(max(value, low), high)
    return (clipped + _INTEGER) - _INTEGER


@inner
def to_scale(value: float, number: np.ndarray) -> float:
    """Round to a number that the scale's dtype holds, keep its sign, and stay within its range.

    `number` describes the dtype: (2^(53 - precision) + 1, smallest normal number, 1.5 * 2^52 * smallest number,
    smallest number, largest number). The first is Veltkamp's constant.
    """
    magnitude = min(abs(value), number[4])
    wide = magnitude * number[0]
    normal = wide - (wide - magnitude)
    subnormal = (magnitude + number[2]) - number[2]
    rounded = normal if magnitude >= number[1] else subnormal
    rounded = min(max(rounded, number[3]), number[4])
    signed: float = -rounded if value < 0.0 else rounded
    return signed


@inner
def to_zero(value: float, low: float, high: float, number: np.ndarray) -> float:
    """Round to a zero point: a code, or with the two codes of 1 bit a number of the scale's dtype."""
    if high > 0.0:
        return to_code(value, low, high)
    return to_scale(value, number)


@entry
def round_columns(
    weight: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    group: np.ndarray,
    low: float,
    high: float,
    codes: np.ndarray,
) -> None:
    """Write the nearest code of every weight; `group[j]` is the group of column j."""
    columns, rows = weight.shape
    for j in range(columns):
        g = group[j]
        for r in range(rows):
            codes[j, r] = to_code(weight[j, r] / scale[g, r] + zero[g, r], low, high)


@inner
def load(source: np.ndarray, start: int, panel: np.ndarray) -> None:
    """Copy rows `start` to `start + PANEL` of [columns, rows] into a panel; spare lanes become 0."""
    lanes = min(PANEL, source.shape[1] - start)
    for j in range(source.shape[0]):
        for i in range(lanes):
            panel[j, i] = source[j, start + i]
        for i in range(lanes, PANEL):
            panel[j, i] = 0.0


@inner
def _evaluate(
    panel: np.ndarray,
    importance: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    low: float,
    high: float,
    best_error: np.ndarray,
    best_scale: np.ndarray,
    best_zero: np.ndarray,
) -> None:
    """Sum importance * (w - q)^2 of each lane, and keep scale and zero point where that is the least so far."""
    inverse = np.empty(PANEL)
    error = np.zeros(PANEL)
    for i in range(PANEL):
        inverse[i] = 1.0 / scale[i]
    for j in range(panel.shape[0]):
        h = importance[j]
        for i in range(PANEL):
            w = panel[j, i]
            code = to_code(w * inverse[i] + zero[i], low, high)
            miss = w - (code - zero[i]) * scale[i]
            error[i] += h * (miss * miss)
    for i in range(PANEL):
        better = error[i] < best_error[i]
        best_error[i] = error[i] if better else best_error[i]
        best_scale[i] = scale[i] if better else best_scale[i]
        best_zero[i] = zero[i] if better else best_zero[i]


@inner
def _fit(
    panel: np.ndarray,
    importance: np.ndarray,
    low: float,
    high: float,
    symmetric: bool,
    number: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    new_scale: np.ndarray,
    new_zero: np.ndarray,
) -> None:
    """Least squares of w = s * (code - z) in s and z, the codes being those of the given scale and zero point."""
    inverse = np.empty(PANEL)
    sum_w = np.zeros(PANEL)
    sum_c = np.zeros(PANEL)
    sum_wc = np.zeros(PANEL)
    sum_cc = np.zeros(PANEL)
    sum_h = 0.0
    for i in range(PANEL):
        inverse[i] = 1.0 / scale[i]
    for j in range(panel.shape[0]):
        h = importance[j]
        sum_h += h
        for i in range(PANEL):
            w = panel[j, i]
            code = to_code(w * inverse[i] + zero[i], low, high)
            sum_w[i] += h * w
            sum_c[i] += h * code
            sum_wc[i] += h * (w * code)
            sum_cc[i] += h * (code * code)
    for i in range(PANEL):
        z = zero[i]
        if not symmetric:
            # Both free first; then z to the nearest that can be stored and s again for that z.
            variance = sum_cc[i] * sum_h - sum_c[i] * sum_c[i]
            slope = (sum_wc[i] * sum_h - sum_w[i] * sum_c[i]) / variance if variance > 0.0 else 0.0
            z = to_zero((sum_c[i] - sum_w[i] / slope) / sum_h, low, high, number) if slope > 0.0 else z
        above = sum_wc[i] - z * sum_w[i]
        below = sum_cc[i] - 2.0 * z * sum_c[i] + z * z * sum_h
        new_scale[i] = to_scale(above / below if below > 0.0 else scale[i], number)
        new_zero[i] = z


@inner
def search_group(
    weight: np.ndarray,
    importance: np.ndarray,
    low: float,
    high: float,
    symmetric: bool,
    factors: np.ndarray,
    shifts: np.ndarray,
    polish: int,
    number: np.ndarray,
    scale_out: np.ndarray,
    zero_out: np.ndarray,
) -> None:
    """Find for each row the scale and zero point of one group that lose the least.

    Args:
        weight: [group, rows].
        importance: [group], weights of the squared errors.
        low: smallest code.
        high: largest code.
        symmetric: whether the zero point is fixed; the sign of the scale is then searched instead.
        factors: shares of the full range to try.
        shifts: offsets of the zero point to try around the centred one; signs of the scale if symmetric.
        polish: rounds of least squares on the codes found, each kept where it helps.
        number: the scale's dtype, see `to_scale`.
        scale_out: [rows], written.
        zero_out: [rows], written.
    """
    columns, rows = weight.shape
    panel = np.empty((columns, PANEL))
    smallest = np.empty(PANEL)
    largest = np.empty(PANEL)
    scale = np.empty(PANEL)
    centre = -0.5 if symmetric and high == 0.0 else 0.0
    zero = np.full(PANEL, centre)
    best_scale = np.empty(PANEL)
    best_zero = np.empty(PANEL)
    best_error = np.empty(PANEL)
    for start in range(0, rows, PANEL):
        load(weight, start, panel)
        for i in range(PANEL):
            smallest[i] = 0.0
            largest[i] = 0.0
            best_scale[i] = 1.0
            best_zero[i] = centre
            best_error[i] = np.inf
        for j in range(columns):
            for i in range(PANEL):
                smallest[i] = min(smallest[i], panel[j, i])
                largest[i] = max(largest[i], panel[j, i])
        for f in range(factors.shape[0]):
            for t in range(shifts.shape[0]):
                for i in range(PANEL):
                    if symmetric:
                        # With a negative scale the one spare code extends the other end of the range.
                        reach = max(largest[i], -smallest[i])
                        scale[i] = to_scale(shifts[t] * factors[f] * reach / (high - centre), number)
                    else:
                        span = to_scale(factors[f] * (largest[i] - smallest[i]) / (high - low), number)
                        middle = 0.5 * (high + low) - 0.5 * (largest[i] + smallest[i]) / span
                        scale[i] = span
                        zero[i] = to_zero(middle + shifts[t], low, high, number)
                _evaluate(panel, importance, scale, zero, low, high, best_error, best_scale, best_zero)
        for _ in range(polish):
            _fit(panel, importance, low, high, symmetric, number, best_scale, best_zero, scale, zero)
            _evaluate(panel, importance, scale, zero, low, high, best_error, best_scale, best_zero)
        for i in range(min(PANEL, rows - start)):
            nothing = largest[i] == smallest[i]
            empty = number[3] if centre != 0.0 else 1.0
            scale_out[start + i] = empty if nothing else best_scale[i]
            zero_out[start + i] = centre if nothing else best_zero[i]


@entry
def search_scales(
    weight: np.ndarray,
    importance: np.ndarray,
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
) -> None:
    """Find scales and zero points of all groups; see `search_group`.

    Args:
        weight: [in, rows].
        importance: [in].
        bounds: [groups + 1], first column of each group, then the number of columns.
        low: smallest code.
        high: largest code.
        symmetric: whether the zero point is 0.
        factors: shares of the full range to try.
        shifts: offsets of the zero point, or signs of the scale.
        polish: rounds of least squares.
        number: the scale's dtype, see `to_scale`.
        scale: [groups, rows], written.
        zero: [groups, rows], written.
    """
    for g in range(bounds.shape[0] - 1):
        first, last = bounds[g], bounds[g + 1]
        search_group(
            weight[first:last],
            importance[first:last],
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
