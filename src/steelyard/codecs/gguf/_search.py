"""The search for the scales, minima and codes of GGUF's blocks, compiled by numba.

Rows are independent, so `LANES` of them go side by side: the innermost loops run over rows and fill the vector
registers without reordering a sum. Sums are in float32 and over what rounding misses, which is small, never
over the weights themselves: a least-squares step is then worked out without cancellation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba import float32, int16, int64, uint8, void

from steelyard.compiled import given, kernel

LANES = 64
_INTEGER = np.float32(12582912.0)  # adding and subtracting it rounds to the nearest integer, halves to even
_SPLIT = 2.0**42 + 1.0  # Veltkamp's constant for the 11 bits of a float16
_TINY = 1.5 * 2.0**28  # adding and subtracting it rounds to whole multiples of 2^-24
_ROUNDS = 2
_POLISH = 3
_ZERO, _ONE, _TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)
_HUGE = np.float32(np.inf)

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
def _nearest(value: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """Return the nearest whole number of a range."""
    value = value if value > low else low
    value = value if value < high else high
    return np.float32(np.float32(value + _INTEGER) - _INTEGER)


# Places in the scratch of `_measure`. One array holds them all: where several may overlap, loops do not become
# vectors.
_SCALE, _INVERSE, _OFFSET, _LEVEL, _RATIO = 0, 1 * LANES, 2 * LANES, 3 * LANES, 4 * LANES
_LOST, _V1, _V2, _M1, _MV = 5 * LANES, 6 * LANES, 7 * LANES, 8 * LANES, 9 * LANES
_SCRATCH = 10 * LANES


@inner
def _table_levels(scratch: np.ndarray, table: np.ndarray) -> None:
    """Write the nearest level of each lane's ratio; a table is 16 levels and the 15 numbers midway between them."""
    first = table[0]
    for i in range(LANES):
        scratch[_LEVEL + i] = first
    for k in range(15):
        step, middle = np.float32(table[k + 1] - table[k]), table[16 + k]
        for i in range(LANES):
            scratch[_LEVEL + i] += step if scratch[_RATIO + i] > middle else _ZERO


@inner
def _measure(
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
    x = np.empty(_SCRATCH, np.float32)
    for i in range(LANES):
        x[_SCALE + i] = scale[i]
        x[_OFFSET + i] = offset[i]
    for i in range(LANES):
        x[_INVERSE + i] = _ONE / x[_SCALE + i] if x[_SCALE + i] != _ZERO else _ZERO
        x[_LOST + i], x[_V1 + i], x[_V2 + i], x[_M1 + i], x[_MV + i] = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    linear = table.size == 0
    for j in range(panel.shape[0]):
        cost, row = h[j], panel[j]
        if linear:
            for i in range(LANES):
                x[_LEVEL + i] = _nearest((row[i] - x[_OFFSET + i]) * x[_INVERSE + i], low, high)
        else:
            for i in range(LANES):
                x[_RATIO + i] = (row[i] - x[_OFFSET + i]) * x[_INVERSE + i]
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
def _extremes(panel: np.ndarray, smallest: np.ndarray, largest: np.ndarray) -> None:
    for i in range(LANES):
        smallest[i] = panel[0, i]
        largest[i] = panel[0, i]
    for j in range(1, panel.shape[0]):
        for i in range(LANES):
            smallest[i] = min(smallest[i], panel[j, i])
            largest[i] = max(largest[i], panel[j, i])


@inner
def _keep(error: np.ndarray, s: np.ndarray, o: np.ndarray, best: np.ndarray) -> None:
    """Keep scale and offset in `best` [3, LANES] (error, scale, offset) where the error is the least so far."""
    for i in range(LANES):
        better = error[i] < best[0, i]
        best[0, i] = error[i] if better else best[0, i]
        best[1, i] = s[i] if better else best[1, i]
        best[2, i] = o[i] if better else best[2, i]


@inner
def _symmetric(
    panel: np.ndarray,
    h: np.ndarray,
    low: np.float32,
    high: np.float32,
    table: np.ndarray,
    factors: np.ndarray,
    half: bool,
    best: np.ndarray,
) -> None:
    """Find the scale of a group without a minimum; `half` says that it is stored as a float16."""
    smallest, largest = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    s, o, error = np.empty(LANES, np.float32), np.zeros(LANES, np.float32), np.empty(LANES, np.float32)
    sums = np.empty((5, LANES), np.float32)
    _extremes(panel, smallest, largest)
    for f in factors:
        for sign in (-1.0, 1.0):
            share = np.float32(sign * f / low)
            for i in range(LANES):
                s[i] = share * max(largest[i], -smallest[i])
            _measure(panel, h, low, high, table, s, o, sums)
            for i in range(LANES):  # what least squares would leave
                move = sums[4, i] / sums[2, i] if sums[2, i] > _ZERO else _ZERO
                error[i] = sums[0, i] - move * sums[4, i]
                s[i] += move
            _keep(error, s, o, best)
    for i in range(LANES):
        s[i] = to_half(best[1, i]) if half else best[1, i]
        best[0, i] = _HUGE
    for _ in range(_POLISH):
        _measure(panel, h, low, high, table, s, o, sums)
        _keep(sums[0], s, o, best)
        for i in range(LANES):
            fitted = s[i] + (sums[4, i] / sums[2, i] if sums[2, i] > _ZERO else _ZERO)
            s[i] = to_half(fitted) if half else fitted


@inner
def _power(
    panel: np.ndarray, h: np.ndarray, low: np.float32, high: np.float32, table: np.ndarray, best: np.ndarray
) -> None:
    """Find the power of two that loses the least."""
    smallest, largest = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    s, o, sums = np.empty(LANES, np.float32), np.zeros(LANES, np.float32), np.empty((5, LANES), np.float32)
    _extremes(panel, smallest, largest)
    for shift in (-1.0, 0.0, 1.0):
        for i in range(LANES):
            # Far enough from the end of the range that the inverse is finite.
            reach = max(np.float64(max(largest[i], -smallest[i])) / np.float64(high), 2.0**-120)
            exponent = min(max(np.ceil(np.log2(reach)) + shift, -120.0), 126.0)
            s[i] = np.float32(2.0**exponent)
        _measure(panel, h, low, high, table, s, o, sums)
        _keep(sums[0], s, o, best)


@inner
def _fit(sums: np.ndarray, total: np.float32, below: bool, s: np.ndarray, o: np.ndarray, error: np.ndarray) -> None:
    """Move scale and offset to the least squares of the levels that `sums` were added up for.

    `error` takes what is lost there, with the levels as they are.
    """
    for i in range(LANES):
        lost, v1, v2, m1, mv = sums[0, i], sums[1, i], sums[2, i], sums[3, i], sums[4, i]
        spread = total * v2 - v1 * v1
        ds = (total * mv - v1 * m1) / spread if spread > _ZERO else _ZERO
        do = (m1 - ds * v1) / total if spread > _ZERO else _ZERO
        if below and o[i] + do > _ZERO:
            do = -o[i]
            ds = (mv - do * v1) / v2 if v2 > _ZERO else _ZERO
        if s[i] + ds < _ZERO:
            ds, do = _ZERO, _ZERO
        error[i] = lost - _TWO * (ds * mv + do * m1) + ds * ds * v2 + _TWO * ds * do * v1 + do * do * total
        s[i] += ds
        o[i] += do


@inner
def _affine(
    panel: np.ndarray,
    h: np.ndarray,
    high: np.float32,
    table: np.ndarray,
    factors: np.ndarray,
    below: bool,
    best: np.ndarray,
) -> None:
    """Find scale and minimum of a group; those of any sign are stored as float16."""
    smallest, largest = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    s, o, error = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    sums = np.empty((5, LANES), np.float32)
    _extremes(panel, smallest, largest)
    total = _total(h)
    if below:
        for i in range(LANES):
            smallest[i] = min(smallest[i], _ZERO)
            largest[i] = max(largest[i], _ZERO)
    for f in factors:
        share = np.float32(f / high)
        for shift in (0.0, 0.5, 1.0):  # where the range shrinks: at its end, on both sides, at its beginning
            rest = np.float32(shift * (1.0 - f))
            for i in range(LANES):
                span = largest[i] - smallest[i]
                s[i] = share * span
                o[i] = smallest[i] + rest * span
                o[i] = min(o[i], _ZERO) if below else o[i]
            _measure(panel, h, _ZERO, high, table, s, o, sums)
            _fit(sums, total, below, s, o, error)
            _keep(error, s, o, best)
    for i in range(LANES):
        s[i] = best[1, i] if below else to_half(best[1, i])
        o[i] = best[2, i] if below else to_half(best[2, i])
        best[0, i] = _HUGE
    for _ in range(_POLISH):
        _measure(panel, h, _ZERO, high, table, s, o, sums)
        _keep(sums[0], s, o, best)
        _fit(sums, total, below, s, o, error)
        if not below:
            for i in range(LANES):
                s[i] = to_half(s[i])
                o[i] = to_half(o[i])


@inner
def _total(h: np.ndarray) -> np.float32:
    total = _ZERO
    for j in range(h.size):
        total += h[j]
    return np.float32(total)


@inner
def _block(
    panel: np.ndarray,
    h: np.ndarray,
    each: int,
    bounds: np.ndarray,
    below: bool,
    table: np.ndarray,
    wanted: np.ndarray,
    floats: np.ndarray,
    whole: np.ndarray,
) -> None:
    """Choose the floats and whole numbers of a block whose scales and minima are products of the two.

    The whole numbers are those nearest to what is wanted, or their neighbours where these lose less; the floats are
    then moved to their least squares, and so on in turn. The best turn is kept.

    Args:
        panel: [256, LANES].
        h: [256].
        each: weights of a group.
        bounds: smallest and largest level, smallest and largest whole number.
        below: whether groups have minima.
        table: see `_table_levels`.
        wanted: [2, groups, LANES], the scales and offsets that would be best; changed.
        floats: [2, LANES], written: of scales and of minima.
        whole: [2, groups, LANES], written.
    """
    groups = wanted.shape[1]
    low, high, first, last = bounds[0], bounds[1], bounds[2], bounds[3]
    s, o, sums = np.empty(LANES, np.float32), np.zeros(LANES, np.float32), np.empty((5, LANES), np.float32)
    a, m = np.empty(LANES, np.float32), np.zeros(LANES, np.float32)
    trial, error = np.zeros((2, LANES), np.float32), np.empty(LANES, np.float32)
    least = np.full(LANES, _HUGE)
    number, kept = np.zeros((2, groups, LANES), np.float32), np.empty((groups, 5, LANES), np.float32)
    for i in range(LANES):
        extreme, deepest = _ZERO, _ZERO
        for g in range(groups):
            extreme = wanted[0, g, i] if abs(wanted[0, g, i]) > abs(extreme) else extreme
            deepest = min(deepest, wanted[1, g, i])
        trial[0, i] = to_half(extreme / (last if below else first))
        trial[1, i] = to_half(-deepest / last) if below else _ZERO
    for turn in range(_ROUNDS):
        for i in range(LANES):
            error[i] = _ZERO
        for g in range(groups):
            members, costs = panel[g * each : (g + 1) * each], h[g * each : (g + 1) * each]
            total = _total(costs)
            for i in range(LANES):
                kept[g, 0, i] = _HUGE
            for shift in (0.0, -1.0, 1.0):
                for i in range(LANES):
                    ratio = wanted[0, g, i] / trial[0, i] if trial[0, i] != _ZERO else _ZERO
                    a[i] = min(max(_nearest(ratio, first, last) + np.float32(shift), first), last)
                    s[i] = a[i] * trial[0, i]
                    if below:
                        m[i] = (
                            _nearest(-wanted[1, g, i] / trial[1, i], _ZERO, last) if trial[1, i] != _ZERO else _ZERO
                        )
                        o[i] = -m[i] * trial[1, i]
                _measure(members, costs, low, high, table, s, o, sums)
                if below:
                    for i in range(LANES):  # the minimum that suits this scale
                        depth = -(o[i] + sums[3, i] / total)
                        m[i] = _nearest(depth / trial[1, i], _ZERO, last) if trial[1, i] != _ZERO else _ZERO
                        o[i] = -m[i] * trial[1, i]
                    _measure(members, costs, low, high, table, s, o, sums)
                for i in range(LANES):
                    if sums[0, i] < kept[g, 0, i]:
                        number[0, g, i], number[1, g, i] = a[i], m[i]
                        for k in range(5):
                            kept[g, k, i] = sums[k, i]
            for i in range(LANES):
                error[i] += kept[g, 0, i]
        for i in range(LANES):
            if error[i] < least[i]:
                least[i] = error[i]
                for k in range(2):
                    floats[k, i] = trial[k, i]
                    for g in range(groups):
                        whole[k, g, i] = number[k, g, i]
        if turn + 1 < _ROUNDS:
            _refit(h, each, below, number, kept, wanted, trial)


@inner
def _refit(
    h: np.ndarray,
    each: int,
    below: bool,
    number: np.ndarray,
    kept: np.ndarray,
    wanted: np.ndarray,
    trial: np.ndarray,
) -> None:
    """Move the floats of a block, and what is wanted of its groups, to their least squares given all levels."""
    groups = wanted.shape[1]
    ss, sm, mm = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    sr, mr, lost = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32), np.empty(LANES, np.float32)
    for g in range(groups):
        total = _total(h[g * each : (g + 1) * each])
        for i in range(LANES):
            a, m = number[0, g, i], number[1, g, i]
            ss[i] += a * a * kept[g, 2, i]
            sm[i] -= a * m * kept[g, 1, i]
            mm[i] += m * m * total
            sr[i] += a * kept[g, 4, i]
            mr[i] -= m * kept[g, 3, i]
            wanted[0, g, i], wanted[1, g, i] = a * trial[0, i], -m * trial[1, i]
        if below:
            _fit(kept[g], total, True, wanted[0, g], wanted[1, g], lost)
        else:
            for i in range(LANES):
                if kept[g, 2, i] > _ZERO:
                    wanted[0, g, i] += kept[g, 4, i] / kept[g, 2, i]
    for i in range(LANES):
        spread = ss[i] * mm[i] - sm[i] * sm[i]
        if below and spread > np.float32(1e-5) * ss[i] * mm[i]:
            scale = trial[0, i] + (sr[i] * mm[i] - mr[i] * sm[i]) / spread
            depth = trial[1, i] + (mr[i] * ss[i] - sr[i] * sm[i]) / spread
            if scale > _ZERO and depth >= _ZERO:
                trial[0, i], trial[1, i] = to_half(scale), to_half(depth)
        elif ss[i] > _ZERO:
            trial[0, i] = to_half(trial[0, i] + sr[i] / ss[i])


@kernel(
    void(
        given(float32),
        given(float32, 1),
        int64,
        int64,
        int64,
        given(float32, 1),
        given(float32, 1),
        given(float32, 1),
        float32[:, :, ::1],
        int16[:, :, ::1],
        uint8[:, ::1],
    )
)
def search(
    weight: np.ndarray,
    importance: np.ndarray,
    numbers: int,
    each: int,
    kind: int,
    bounds: np.ndarray,
    table: np.ndarray,
    factors: np.ndarray,
    floats: np.ndarray,
    whole: np.ndarray,
    codes: np.ndarray,
) -> None:
    """Choose what the blocks of some rows hold.

    Args:
        weight: float32 [rows, columns].
        importance: float32 [columns], above 0: what a squared error costs at each column.
        numbers: weights of a block.
        each: weights of a group.
        kind: 0 for scales alone, 1 for a minimum of any sign, 2 for one below zero, 3 for a power of two.
        bounds: smallest and largest level, smallest and largest whole number; the last two 0 where there are none.
        table: see `_level`.
        factors: shares of the full range to try.
        floats: float32 [2, rows, blocks], written: of scales; of minima, or of their negatives where whole.
        whole: int16 [2, rows, groups], written.
        codes: uint8 [rows, columns], written: place of each level among all.
    """
    rows, columns = weight.shape
    groups = numbers // each
    low, high = bounds[0], bounds[1]
    product = bounds[3] != _ZERO
    panel, best = np.zeros((numbers, LANES), np.float32), np.empty((3, LANES), np.float32)
    wanted, chosen = np.zeros((2, groups, LANES), np.float32), np.zeros((2, groups, LANES), np.float32)
    pair, scratch = np.zeros((2, LANES), np.float32), np.empty(_SCRATCH, np.float32)
    for start in range(0, rows, LANES):
        lanes = min(LANES, rows - start)
        for b in range(columns // numbers):
            h = importance[b * numbers : (b + 1) * numbers]
            for i in range(lanes):
                for j in range(numbers):
                    panel[j, i] = weight[start + i, b * numbers + j]
            for g in range(groups):
                members, costs = panel[g * each : (g + 1) * each], h[g * each : (g + 1) * each]
                for i in range(LANES):
                    best[0, i], best[1, i], best[2, i] = _HUGE, _ZERO, _ZERO
                if kind == 0:
                    _symmetric(members, costs, low, high, table, factors, not product, best)
                elif kind == 3:
                    _power(members, costs, low, high, table, best)
                else:
                    _affine(members, costs, high, table, factors, kind == 2, best)
                for i in range(LANES):
                    wanted[0, g, i], wanted[1, g, i] = best[1, i], best[2, i]
            if product:
                _block(panel, h, each, bounds, kind == 2, table, wanted, pair, chosen)
                for g in range(groups):
                    for i in range(LANES):
                        wanted[0, g, i] = chosen[0, g, i] * pair[0, i]
                        wanted[1, g, i] = -chosen[1, g, i] * pair[1, i]
            else:
                for i in range(LANES):
                    pair[0, i], pair[1, i] = wanted[0, 0, i], wanted[1, 0, i]
            for i in range(lanes):
                r = start + i
                for k in range(2):
                    floats[k, r, b] = pair[k, i]
                    for g in range(groups if product else 0):
                        whole[k, r, b * groups + g] = np.int16(chosen[k, g, i])
            for j in range(numbers):
                s, o = wanted[0, j // each], wanted[1, j // each]
                for i in range(LANES):
                    scratch[_RATIO + i] = (panel[j, i] - o[i]) * (_ONE / s[i] if s[i] != _ZERO else _ZERO)
                for i in range(lanes):
                    if table.size:
                        place = _ZERO
                        for k in range(15):
                            place += _ONE if scratch[_RATIO + i] > table[16 + k] else _ZERO
                    else:
                        place = _nearest(scratch[_RATIO + i], low, high) - low
                    codes[start + i, b * numbers + j] = np.uint8(place)
