"""The search for the scales, minima and codes of GGUF's blocks, compiled by numba.

Rows are independent, so `LANES` of them go side by side: the innermost loops run over rows and fill the vector
registers without reordering a sum. Sums are in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba import float32, float64, int16, int64, uint8, void

from steelyard.compiled import given, kernel

LANES = 16
_INTEGER = 6755399441055744.0  # adding and subtracting it rounds to the nearest integer, halves to even
_SPLIT = 2.0**42 + 1.0  # Veltkamp's constant for the 11 bits of a float16
_TINY = 1.5 * 2.0**28  # the same as _INTEGER, for whole multiples of 2^-24
_ROUNDS = 3
_POLISH = 3

Function = TypeVar("Function", bound=Callable[..., Any])


def inner(function: Function) -> Function:
    """Compile as part of the kernel; divisions by zero are those of IEEE."""
    return cast(Function, numba.njit(nogil=True, error_model="numpy")(function))


@inner
def to_half(value: float) -> float:
    """Round to the nearest float16 that is finite."""
    magnitude = min(abs(value), 65504.0)
    wide = magnitude * _SPLIT
    rounded = wide - (wide - magnitude) if magnitude >= 2.0**-14 else (magnitude + _TINY) - _TINY
    rounded = min(rounded, 65504.0)
    signed: float = -rounded if value < 0.0 else rounded
    return signed


@inner
def _level(value: float, low: float, high: float, table: np.ndarray) -> float:
    """Return the nearest level; a table is 16 levels and the 15 numbers midway between them."""
    if table.size == 0:
        clipped = min(max(value, low), high)
        return (clipped + _INTEGER) - _INTEGER
    place = 0
    for step in (8, 4, 2, 1):
        if value > table[16 + place + step - 1]:
            place += step
    found: float = table[place]
    return found


@inner
def _measure(
    panel: np.ndarray,
    h: np.ndarray,
    low: float,
    high: float,
    table: np.ndarray,
    scale: np.ndarray,
    offset: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Round under w = level * scale + offset and add up what least squares needs.

    Args:
        panel: [weights, LANES].
        h: [weights], what a squared error costs.
        low: smallest level.
        high: largest level.
        table: see `_level`.
        scale: [LANES]; where it is 0 every level is that nearest to 0.
        offset: [LANES].
        sums: [5, LANES], written: of h times the squared error, v, v v, w, w v, for the levels v.
    """
    inverse, level = np.empty(LANES), np.empty(LANES)
    lost, v1, v2, w1, wv = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    for i in range(LANES):
        inverse[i] = 1.0 / scale[i] if scale[i] != 0.0 else 0.0
    linear = table.size == 0
    for j in range(panel.shape[0]):
        cost = h[j]
        if linear:
            for i in range(LANES):
                ratio = (panel[j, i] - offset[i]) * inverse[i]
                level[i] = (min(max(ratio, low), high) + _INTEGER) - _INTEGER
        else:
            for i in range(LANES):
                level[i] = _level((panel[j, i] - offset[i]) * inverse[i], low, high, table)
        for i in range(LANES):
            w, v = panel[j, i], level[i]
            miss = w - offset[i] - v * scale[i]
            lost[i] += cost * (miss * miss)
            v1[i] += cost * v
            v2[i] += cost * (v * v)
            w1[i] += cost * w
            wv[i] += cost * (w * v)
    for i in range(LANES):
        sums[0, i], sums[1, i], sums[2, i], sums[3, i], sums[4, i] = lost[i], v1[i], v2[i], w1[i], wv[i]


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
    low: float,
    high: float,
    table: np.ndarray,
    factors: np.ndarray,
    half: bool,
    best: np.ndarray,
) -> None:
    """Find the scale of a group without a minimum; `half` says that it is stored as a float16."""
    smallest, largest = np.empty(LANES), np.empty(LANES)
    s, o, sums, error = np.empty(LANES), np.zeros(LANES), np.empty((5, LANES)), np.empty(LANES)
    _extremes(panel, smallest, largest)
    for f in factors:
        for sign in (-1.0, 1.0):
            for i in range(LANES):
                s[i] = sign * f * max(largest[i], -smallest[i]) / low
            _measure(panel, h, low, high, table, s, o, sums)
            for i in range(LANES):  # what least squares would leave, less a constant
                fits = sums[2, i] > 0.0
                error[i] = -sums[4, i] * sums[4, i] / sums[2, i] if fits else 0.0
                s[i] = sums[4, i] / sums[2, i] if fits else s[i]
            _keep(error, s, o, best)
    for i in range(LANES):
        s[i] = to_half(best[1, i]) if half else best[1, i]
        best[0, i] = np.inf
    for _ in range(_POLISH):
        _measure(panel, h, low, high, table, s, o, sums)
        _keep(sums[0], s, o, best)
        for i in range(LANES):
            fitted = sums[4, i] / sums[2, i] if sums[2, i] > 0.0 else s[i]
            s[i] = to_half(fitted) if half else fitted


@inner
def _power(panel: np.ndarray, h: np.ndarray, low: float, high: float, table: np.ndarray, best: np.ndarray) -> None:
    """Find the power of two that loses the least."""
    smallest, largest = np.empty(LANES), np.empty(LANES)
    s, o, sums = np.empty(LANES), np.zeros(LANES), np.empty((5, LANES))
    _extremes(panel, smallest, largest)
    for shift in (-1.0, 0.0, 1.0):
        for i in range(LANES):
            reach = max(max(largest[i], -smallest[i]) / high, 2.0**-128)
            exponent = min(max(np.ceil(np.log2(reach)) + shift, -128.0), 126.0)
            s[i] = 2.0**exponent
        _measure(panel, h, low, high, table, s, o, sums)
        _keep(sums[0], s, o, best)


@inner
def _fit(sums: np.ndarray, total: float, below: bool, s: np.ndarray, o: np.ndarray) -> None:
    """Move scale and offset to the least squares of the levels that `sums` were added up for."""
    for i in range(LANES):
        spread = total * sums[2, i] - sums[1, i] * sums[1, i]
        scale = (total * sums[4, i] - sums[1, i] * sums[3, i]) / spread if spread > 0.0 else s[i]
        offset = (sums[3, i] - scale * sums[1, i]) / total if spread > 0.0 else o[i]
        if below and offset > 0.0:
            offset = 0.0
            scale = sums[4, i] / sums[2, i] if sums[2, i] > 0.0 else s[i]
        s[i] = scale if scale >= 0.0 else s[i]
        o[i] = offset if scale >= 0.0 else o[i]


@inner
def _affine(
    panel: np.ndarray,
    h: np.ndarray,
    high: float,
    table: np.ndarray,
    factors: np.ndarray,
    below: bool,
    best: np.ndarray,
) -> None:
    """Find scale and minimum of a group; those of any sign are stored as float16."""
    smallest, largest = np.empty(LANES), np.empty(LANES)
    s, o, sums, error = np.empty(LANES), np.empty(LANES), np.empty((5, LANES)), np.empty(LANES)
    _extremes(panel, smallest, largest)
    total = h.sum()
    if below:
        for i in range(LANES):
            smallest[i] = min(smallest[i], 0.0)
            largest[i] = max(largest[i], 0.0)
    for f in factors:
        for shift in (0.0, 0.5, 1.0):  # where the range shrinks: at its end, on both sides, at its beginning
            for i in range(LANES):
                span = largest[i] - smallest[i]
                s[i] = f * span / high
                o[i] = smallest[i] + shift * (1.0 - f) * span
                o[i] = min(o[i], 0.0) if below else o[i]
            _measure(panel, h, 0.0, high, table, s, o, sums)
            _fit(sums, total, below, s, o)
            for i in range(LANES):  # what is left at the least squares, less a constant
                error[i] = s[i] * (s[i] * sums[2, i] - 2.0 * sums[4, i])
                error[i] += o[i] * (total * o[i] + 2.0 * (s[i] * sums[1, i] - sums[3, i]))
            _keep(error, s, o, best)
    for i in range(LANES):
        s[i] = best[1, i] if below else to_half(best[1, i])
        o[i] = best[2, i] if below else to_half(best[2, i])
        best[0, i] = np.inf
    for _ in range(_POLISH):
        _measure(panel, h, 0.0, high, table, s, o, sums)
        _keep(sums[0], s, o, best)
        _fit(sums, total, below, s, o)
        if not below:
            for i in range(LANES):
                s[i] = to_half(s[i])
                o[i] = to_half((sums[3, i] - s[i] * sums[1, i]) / total)


@inner
def _whole(value: float, first: float, last: float) -> float:
    return (min(max(value, first), last) + _INTEGER) - _INTEGER


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
        table: see `_level`.
        wanted: [2, groups, LANES], the scales and offsets that would be best; changed.
        floats: [2, LANES], written: of scales and of minima.
        whole: [2, groups, LANES], written.
    """
    groups = wanted.shape[1]
    low, high, first, last = bounds[0], bounds[1], bounds[2], bounds[3]
    s, o, sums = np.empty(LANES), np.zeros(LANES), np.empty((5, LANES))
    a, m = np.empty(LANES), np.zeros(LANES)
    trial, error, least = np.zeros((2, LANES)), np.empty(LANES), np.full(LANES, np.inf)
    number, kept = np.zeros((2, groups, LANES)), np.empty((groups, 5, LANES))
    for i in range(LANES):
        extreme, deepest = 0.0, 0.0
        for g in range(groups):
            extreme = wanted[0, g, i] if abs(wanted[0, g, i]) > abs(extreme) else extreme
            deepest = min(deepest, wanted[1, g, i])
        trial[0, i] = to_half(extreme / (last if below else first))
        trial[1, i] = to_half(-deepest / last) if below else 0.0
    for turn in range(_ROUNDS):
        for i in range(LANES):
            error[i] = 0.0
        for g in range(groups):
            members, costs = panel[g * each : (g + 1) * each], h[g * each : (g + 1) * each]
            total = costs.sum()
            for i in range(LANES):
                kept[g, 0, i] = np.inf
            for shift in (0.0, -1.0, 1.0):
                for i in range(LANES):
                    ratio = wanted[0, g, i] / trial[0, i] if trial[0, i] != 0.0 else 0.0
                    a[i] = min(max(_whole(ratio, first, last) + shift, first), last)
                    s[i] = a[i] * trial[0, i]
                    if below:
                        m[i] = _whole(-wanted[1, g, i] / trial[1, i], 0.0, last) if trial[1, i] != 0.0 else 0.0
                        o[i] = -m[i] * trial[1, i]
                _measure(members, costs, low, high, table, s, o, sums)
                if below:
                    for i in range(LANES):
                        depth = (s[i] * sums[1, i] - sums[3, i]) / total
                        m[i] = _whole(depth / trial[1, i], 0.0, last) if trial[1, i] != 0.0 else 0.0
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
    ss, sm, mm, sw, mw = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    for g in range(groups):
        total = h[g * each : (g + 1) * each].sum()
        for i in range(LANES):
            a, m = number[0, g, i], number[1, g, i]
            ss[i] += a * a * kept[g, 2, i]
            sm[i] -= a * m * kept[g, 1, i]
            mm[i] += m * m * total
            sw[i] += a * kept[g, 4, i]
            mw[i] -= m * kept[g, 3, i]
        if below:
            _fit(kept[g], total, True, wanted[0, g], wanted[1, g])
        else:
            for i in range(LANES):
                if kept[g, 2, i] > 0.0:
                    wanted[0, g, i] = kept[g, 4, i] / kept[g, 2, i]
    for i in range(LANES):
        spread = ss[i] * mm[i] - sm[i] * sm[i]
        if below and spread > 1e-12 * ss[i] * mm[i]:
            scale = (sw[i] * mm[i] - mw[i] * sm[i]) / spread
            depth = (mw[i] * ss[i] - sw[i] * sm[i]) / spread
            if scale > 0.0 and depth >= 0.0:
                trial[0, i], trial[1, i] = to_half(scale), to_half(depth)
        elif ss[i] > 0.0:
            trial[0, i] = to_half(sw[i] / ss[i])


@kernel(
    void(
        given(float32),
        given(float64, 1),
        int64,
        int64,
        int64,
        given(float64, 1),
        given(float64, 1),
        given(float64, 1),
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
        importance: float64 [columns], above 0: what a squared error costs at each column.
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
    product = bounds[3] != 0.0
    panel, best = np.zeros((numbers, LANES)), np.empty((3, LANES))
    wanted, chosen = np.zeros((2, groups, LANES)), np.zeros((2, groups, LANES))
    pair = np.zeros((2, LANES))
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
                    best[0, i], best[1, i], best[2, i] = np.inf, 0.0, 0.0
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
                        wanted[0, g, i] = np.float64(np.float32(chosen[0, g, i] * pair[0, i]))
                        wanted[1, g, i] = -np.float64(np.float32(chosen[1, g, i] * pair[1, i]))
            else:
                for i in range(LANES):
                    pair[0, i], pair[1, i] = wanted[0, 0, i], wanted[1, 0, i]
            for i in range(lanes):
                r = start + i
                for k in range(2):
                    floats[k, r, b] = pair[k, i]
                for g in range(groups):
                    if product:
                        for k in range(2):
                            whole[k, r, b * groups + g] = np.int16(chosen[k, g, i])
                    s, o = wanted[0, g, i], wanted[1, g, i]
                    inverse = 1.0 / s if s != 0.0 else 0.0
                    for j in range(each):
                        v = _level((panel[g * each + j, i] - o) * inverse, low, high, table)
                        place = v - low
                        if table.size:
                            place = 0.0
                            for k in range(16):
                                place += 1.0 if table[k] < v else 0.0
                        codes[r, b * numbers + g * each + j] = np.uint8(place)
