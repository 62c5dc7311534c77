"""What rounding a group under given scales and minima loses, and where least squares would move them.

Rows are independent, so `LANES` of them go side by side: the innermost loops run over rows and fill the vector
registers without reordering a sum. Sums are in float32 and over what rounding misses, which is small, never
over the weights themselves: a least-squares step is then worked out without cancellation.

After a change here, touch `_search.py`: numba's cache notices changes of a kernel's own file only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

LANES = 64
_INTEGER = np.float32(12582912.0)  # adding and subtracting it rounds to the nearest integer, halves to even
_SPLIT = 2.0**42 + 1.0  # Veltkamp's constant for the 11 bits of a float16
_TINY = 1.5 * 2.0**28  # adding and subtracting it rounds to whole multiples of 2^-24
ZERO, ONE, _TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)
HUGE = np.float32(np.inf)

Function = TypeVar("Function", bound=Callable[..., Any])


def inner(function: Function) -> Function:
    """Compile as part of the kernel; divisions by zero are those of IEEE."""
    return cast(Function, numba.njit(nogil=True, error_model="numpy")(function))


@inner
def to_half(number: np.float32) -> np.float32:
    """Round to the nearest float16 that is finite."""
    value = np.float64(number)
    magnitude = min(abs(value), 65504.0)
    wide = magnitude * _SPLIT
    rounded = wide - (wide - magnitude) if magnitude >= 2.0**-14 else (magnitude + _TINY) - _TINY
    rounded = min(rounded, 65504.0)
    return np.float32(-rounded if value < 0.0 else rounded)


@inner
def nearest(value: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """Return the nearest whole number of a range."""
    value = value if value > low else low
    value = value if value < high else high
    return np.float32(np.float32(value + _INTEGER) - _INTEGER)


# Places in the scratch of `measure`. One array holds them all: where several may overlap, loops do not become
# vectors.
_SCALE, _INVERSE, _OFFSET, _LEVEL, RATIO = 0, 1 * LANES, 2 * LANES, 3 * LANES, 4 * LANES
_LOST, _V1, _V2, _M1, _MV = 5 * LANES, 6 * LANES, 7 * LANES, 8 * LANES, 9 * LANES
SCRATCH = 10 * LANES


@inner
def _table_levels(scratch: np.ndarray, table: np.ndarray) -> None:
    """Write the nearest level of each lane's ratio; a table is 16 levels and the 15 numbers midway between them."""
    first = table[0]
    for i in range(LANES):
        scratch[_LEVEL + i] = first
    for k in range(15):
        step, middle = np.float32(table[k + 1] - table[k]), table[16 + k]
        for i in range(LANES):
            scratch[_LEVEL + i] += step if scratch[RATIO + i] > middle else ZERO


@inner
def measure(
    panel: np.ndarray,
    h: np.ndarray,
    low: np.float32,
    high: np.float32,
    table: np.ndarray,
    scale: np.ndarray,
    offset: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Round under w = level * scale + offset + miss and add up what least squares needs.

    Args:
        panel: [weights, LANES].
        h: [weights], what a squared error costs.
        low: smallest level.
        high: largest level.
        table: see `_table_levels`.
        scale: [LANES]; where it is 0 every level is that nearest to 0.
        offset: [LANES].
        sums: [5, LANES], written: of h times the squared miss, v, v v, miss, miss v, for the levels v.
    """
    x = np.empty(SCRATCH, np.float32)
    for i in range(LANES):
        x[_SCALE + i] = scale[i]
        x[_OFFSET + i] = offset[i]
    for i in range(LANES):
        x[_INVERSE + i] = ONE / x[_SCALE + i] if x[_SCALE + i] != ZERO else ZERO
        x[_LOST + i], x[_V1 + i], x[_V2 + i], x[_M1 + i], x[_MV + i] = ZERO, ZERO, ZERO, ZERO, ZERO
    linear = table.size == 0
    for j in range(panel.shape[0]):
        cost, row = h[j], panel[j]
        if linear:
            for i in range(LANES):
                x[_LEVEL + i] = nearest((row[i] - x[_OFFSET + i]) * x[_INVERSE + i], low, high)
        else:
            for i in range(LANES):
                x[RATIO + i] = (row[i] - x[_OFFSET + i]) * x[_INVERSE + i]
            _table_levels(x, table)
        for i in range(LANES):
            v = x[_LEVEL + i]
            miss = (row[i] - x[_OFFSET + i]) - v * x[_SCALE + i]
            costly, weighed = cost * v, cost * miss
            x[_LOST + i] += weighed * miss
            x[_V1 + i] += costly
            x[_V2 + i] += costly * v
            x[_M1 + i] += weighed
            x[_MV + i] += weighed * v
    for i in range(LANES):
        sums[0, i], sums[1, i], sums[2, i] = x[_LOST + i], x[_V1 + i], x[_V2 + i]
        sums[3, i], sums[4, i] = x[_M1 + i], x[_MV + i]


@inner
def extremes(panel: np.ndarray, smallest: np.ndarray, largest: np.ndarray) -> None:
    for i in range(LANES):
        smallest[i] = panel[0, i]
        largest[i] = panel[0, i]
    for j in range(1, panel.shape[0]):
        for i in range(LANES):
            smallest[i] = min(smallest[i], panel[j, i])
            largest[i] = max(largest[i], panel[j, i])


@inner
def keep(error: np.ndarray, s: np.ndarray, o: np.ndarray, best: np.ndarray) -> None:
    """Keep scale and offset in `best` [3, LANES] (error, scale, offset) where the error is the least so far."""
    for i in range(LANES):
        better = error[i] < best[0, i]
        best[0, i] = error[i] if better else best[0, i]
        best[1, i] = s[i] if better else best[1, i]
        best[2, i] = o[i] if better else best[2, i]


@inner
def fit(sums: np.ndarray, total: np.float32, below: bool, s: np.ndarray, o: np.ndarray, error: np.ndarray) -> None:
    """Move scale and offset to the least squares of the levels that `sums` were added up for.

    `error` takes what is lost there, with the levels as they are.
    """
    for i in range(LANES):
        lost, v1, v2, m1, mv = sums[0, i], sums[1, i], sums[2, i], sums[3, i], sums[4, i]
        spread = total * v2 - v1 * v1
        ds = (total * mv - v1 * m1) / spread if spread > ZERO else ZERO
        do = (m1 - ds * v1) / total if spread > ZERO else ZERO
        if below and o[i] + do > ZERO:
            do = -o[i]
            ds = (mv - do * v1) / v2 if v2 > ZERO else ZERO
        if s[i] + ds < ZERO:
            ds, do = ZERO, ZERO
        error[i] = lost - _TWO * (ds * mv + do * m1) + ds * ds * v2 + _TWO * ds * do * v1 + do * do * total
        s[i] += ds
        o[i] += do


@inner
def total_of(h: np.ndarray) -> np.float32:
    total = ZERO
    for j in range(h.size):
        total += h[j]
    return np.float32(total)
