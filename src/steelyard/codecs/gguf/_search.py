"""The search for the scales, minima and codes of GGUF's blocks, compiled by numba.

`_lanes` tells what a choice loses, `_groups` and `_products` choose.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int16, int64, uint8, void

from steelyard.codecs.gguf._groups import affine, power, symmetric
from steelyard.codecs.gguf._lanes import HUGE, LANES, ONE, RATIO, SCRATCH, ZERO, nearest
from steelyard.codecs.gguf._products import block
from steelyard.compiled import given, kernel


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
        table: see `_lanes._table_levels`.
        factors: shares of the full range to try.
        floats: float32 [2, rows, blocks], written: of scales; of minima, or of their negatives where whole.
        whole: int16 [2, rows, groups], written.
        codes: uint8 [rows, columns], written: place of each level among all.
    """
    rows, columns = weight.shape
    groups = numbers // each
    low, high = bounds[0], bounds[1]
    product = bounds[3] != ZERO
    panel, best = np.zeros((numbers, LANES), np.float32), np.empty((3, LANES), np.float32)
    wanted, chosen = np.zeros((2, groups, LANES), np.float32), np.zeros((2, groups, LANES), np.float32)
    pair, scratch = np.zeros((2, LANES), np.float32), np.empty(SCRATCH, np.float32)
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
                    best[0, i], best[1, i], best[2, i] = HUGE, ZERO, ZERO
                if kind == 0:
                    symmetric(members, costs, low, high, table, factors, not product, best)
                elif kind == 3:
                    power(members, costs, low, high, table, best)
                else:
                    affine(members, costs, high, table, factors, kind == 2, best)
                for i in range(LANES):
                    wanted[0, g, i], wanted[1, g, i] = best[1, i], best[2, i]
            if product:
                block(panel, h, each, bounds, kind == 2, table, wanted, pair, chosen)
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
                    scratch[RATIO + i] = (panel[j, i] - o[i]) * (ONE / s[i] if s[i] != ZERO else ZERO)
                for i in range(lanes):
                    if table.size:
                        place = ZERO
                        for k in range(15):
                            place += ONE if scratch[RATIO + i] > table[16 + k] else ZERO
                    else:
                        place = nearest(scratch[RATIO + i], low, high) - low
                    codes[start + i, b * numbers + j] = np.uint8(place)
