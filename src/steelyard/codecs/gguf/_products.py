"""Blocks whose scales and minima are floats of the block times whole numbers. Compiled into `_search`.

After a change here, touch `_search.py`: numba's cache notices changes of a kernel's own file only.
"""

from __future__ import annotations

import numpy as np

from steelyard.codecs.gguf._lanes import HUGE, LANES, ZERO, fit, inner, measure, nearest, to_half, total_of

_ROUNDS = 2


@inner
def block(
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
        table: see `_lanes._table_levels`.
        wanted: [2, groups, LANES], the scales and offsets that would be best; changed.
        floats: [2, LANES], written: of scales and of minima.
        whole: [2, groups, LANES], written.
    """
    groups = wanted.shape[1]
    low, high, first, last = bounds[0], bounds[1], bounds[2], bounds[3]
    s, o, sums = np.empty(LANES, np.float32), np.zeros(LANES, np.float32), np.empty((5, LANES), np.float32)
    a, m = np.empty(LANES, np.float32), np.zeros(LANES, np.float32)
    trial, error = np.zeros((2, LANES), np.float32), np.empty(LANES, np.float32)
    least = np.full(LANES, HUGE)
    number, kept = np.zeros((2, groups, LANES), np.float32), np.empty((groups, 5, LANES), np.float32)
    for i in range(LANES):
        extreme, deepest = ZERO, ZERO
        for g in range(groups):
            extreme = wanted[0, g, i] if abs(wanted[0, g, i]) > abs(extreme) else extreme
            deepest = min(deepest, wanted[1, g, i])
        trial[0, i] = to_half(extreme / (last if below else first))
        trial[1, i] = to_half(-deepest / last) if below else ZERO
    for turn in range(_ROUNDS):
        for i in range(LANES):
            error[i] = ZERO
        for g in range(groups):
            members, costs = panel[g * each : (g + 1) * each], h[g * each : (g + 1) * each]
            total = total_of(costs)
            for i in range(LANES):
                kept[g, 0, i] = HUGE
            for shift in (0.0, -1.0, 1.0):
                for i in range(LANES):
                    ratio = wanted[0, g, i] / trial[0, i] if trial[0, i] != ZERO else ZERO
                    a[i] = min(max(nearest(ratio, first, last) + np.float32(shift), first), last)
                    s[i] = a[i] * trial[0, i]
                    if below:
                        m[i] = nearest(-wanted[1, g, i] / trial[1, i], ZERO, last) if trial[1, i] != ZERO else ZERO
                        o[i] = -m[i] * trial[1, i]
                measure(members, costs, low, high, table, s, o, sums)
                if below:
                    for i in range(LANES):  # the minimum that suits this scale
                        depth = -(o[i] + sums[3, i] / total)
                        m[i] = nearest(depth / trial[1, i], ZERO, last) if trial[1, i] != ZERO else ZERO
                        o[i] = -m[i] * trial[1, i]
                    measure(members, costs, low, high, table, s, o, sums)
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
        total = total_of(h[g * each : (g + 1) * each])
        for i in range(LANES):
            a, m = number[0, g, i], number[1, g, i]
            ss[i] += a * a * kept[g, 2, i]
            sm[i] -= a * m * kept[g, 1, i]
            mm[i] += m * m * total
            sr[i] += a * kept[g, 4, i]
            mr[i] -= m * kept[g, 3, i]
            wanted[0, g, i], wanted[1, g, i] = a * trial[0, i], -m * trial[1, i]
        if below:
            fit(kept[g], total, True, wanted[0, g], wanted[1, g], lost)
        else:
            for i in range(LANES):
                if kept[g, 2, i] > ZERO:
                    wanted[0, g, i] += kept[g, 4, i] / kept[g, 2, i]
    for i in range(LANES):
        spread = ss[i] * mm[i] - sm[i] * sm[i]
        if below and spread > np.float32(1e-5) * ss[i] * mm[i]:
            scale = trial[0, i] + (sr[i] * mm[i] - mr[i] * sm[i]) / spread
            depth = trial[1, i] + (mr[i] * ss[i] - sr[i] * sm[i]) / spread
            if scale > ZERO and depth >= ZERO:
                trial[0, i], trial[1, i] = to_half(scale), to_half(depth)
        elif ss[i] > ZERO:
            trial[0, i] = to_half(trial[0, i] + sr[i] / ss[i])
