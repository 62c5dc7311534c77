"""The scale and the minimum of a group, searched among shares of its range. Compiled into `_search`.

After a change here, touch `_search.py`: numba's cache notices changes of a kernel's own file only.
"""

from __future__ import annotations

import numpy as np

from steelyard.codecs.gguf._lanes import HUGE, LANES, ZERO, extremes, fit, inner, keep, measure, to_half, total_of

_POLISH = 3


@inner
def symmetric(
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
    extremes(panel, smallest, largest)
    for f in factors:
        for sign in (-1.0, 1.0):
            share = np.float32(sign * f / low)
            for i in range(LANES):
                s[i] = share * max(largest[i], -smallest[i])
            measure(panel, h, low, high, table, s, o, sums)
            for i in range(LANES):  # what least squares would leave
                move = sums[4, i] / sums[2, i] if sums[2, i] > ZERO else ZERO
                error[i] = sums[0, i] - move * sums[4, i]
                s[i] += move
            keep(error, s, o, best)
    for i in range(LANES):
        s[i] = to_half(best[1, i]) if half else best[1, i]
        best[0, i] = HUGE
    for _ in range(_POLISH):
        measure(panel, h, low, high, table, s, o, sums)
        keep(sums[0], s, o, best)
        for i in range(LANES):
            fitted = s[i] + (sums[4, i] / sums[2, i] if sums[2, i] > ZERO else ZERO)
            s[i] = to_half(fitted) if half else fitted


@inner
def power(
    panel: np.ndarray, h: np.ndarray, low: np.float32, high: np.float32, table: np.ndarray, best: np.ndarray
) -> None:
    """Find the power of two that loses the least."""
    smallest, largest = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    s, o, sums = np.empty(LANES, np.float32), np.zeros(LANES, np.float32), np.empty((5, LANES), np.float32)
    extremes(panel, smallest, largest)
    for shift in (-1.0, 0.0, 1.0):
        for i in range(LANES):
            # Far enough from the end of the range that the inverse is finite.
            reach = max(np.float64(max(largest[i], -smallest[i])) / np.float64(high), 2.0**-120)
            exponent = min(max(np.ceil(np.log2(reach)) + shift, -120.0), 126.0)
            s[i] = np.float32(2.0**exponent)
        measure(panel, h, low, high, table, s, o, sums)
        keep(sums[0], s, o, best)


@inner
def affine(
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
    extremes(panel, smallest, largest)
    total = total_of(h)
    if below:
        for i in range(LANES):
            smallest[i] = min(smallest[i], ZERO)
            largest[i] = max(largest[i], ZERO)
    for f in factors:
        share = np.float32(f / high)
        for shift in (0.0, 0.5, 1.0):  # where the range shrinks: at its end, on both sides, at its beginning
            rest = np.float32(shift * (1.0 - f))
            for i in range(LANES):
                span = largest[i] - smallest[i]
                s[i] = share * span
                o[i] = smallest[i] + rest * span
                o[i] = min(o[i], ZERO) if below else o[i]
            measure(panel, h, ZERO, high, table, s, o, sums)
            fit(sums, total, below, s, o, error)
            keep(error, s, o, best)
    for i in range(LANES):
        s[i] = best[1, i] if below else to_half(best[1, i])
        o[i] = best[2, i] if below else to_half(best[2, i])
        best[0, i] = HUGE
    for _ in range(_POLISH):
        measure(panel, h, ZERO, high, table, s, o, sums)
        keep(sums[0], s, o, best)
        fit(sums, total, below, s, o, error)
        if not below:
            for i in range(LANES):
                s[i] = to_half(s[i])
                o[i] = to_half(o[i])
