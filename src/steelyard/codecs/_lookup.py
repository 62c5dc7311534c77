"""Nearest entries of a table, and back, compiled by numba."""

from __future__ import annotations

import numpy as np
from numba import float32, int64, uint8, void

from steelyard.compiled import given, kernel


@kernel(void(given(float32), given(float32), int64, given(float32, 1), given(uint8, 1), uint8[:, ::1]))
def nearest(
    weight: np.ndarray, scale: np.ndarray, group: int, middles: np.ndarray, codes: np.ndarray, chosen: np.ndarray
) -> None:
    """Write the code of the table entry nearest to weight / scale.

    Args:
        weight: float32 [rows, columns].
        scale: float32 [rows, groups]; where it is 0 the value 0 is coded.
        group: columns that share a scale; the last group may be shorter.
        middles: float32 [entries - 1], between neighbours of the sorted table.
        codes: uint8 [entries], of the sorted table's entries.
        chosen: uint8 [rows, columns], written.
    """
    rows, columns = weight.shape
    for r in range(rows):
        for g in range(scale.shape[1]):
            divisor = scale[r, g] if scale[r, g] != 0.0 else np.float32(np.inf)
            for j in range(g * group, min((g + 1) * group, columns)):
                value = weight[r, j] / divisor
                low, high = 0, middles.size
                while low < high:
                    middle = (low + high) >> 1
                    if middles[middle] < value:
                        low = middle + 1
                    else:
                        high = middle
                chosen[r, j] = codes[low]


@kernel(void(given(uint8), given(float32), int64, given(float32, 1), float32[:, ::1]))
def look_up(codes: np.ndarray, scale: np.ndarray, group: int, table: np.ndarray, weight: np.ndarray) -> None:
    """Write table[code] * scale.

    Args:
        codes: uint8 [rows, columns].
        scale: float32 [rows, groups].
        group: columns that share a scale.
        table: float32 [entries], by code.
        weight: float32 [rows, columns], written.
    """
    rows, columns = codes.shape
    for r in range(rows):
        for g in range(scale.shape[1]):
            for j in range(g * group, min((g + 1) * group, columns)):
                weight[r, j] = table[codes[r, j]] * scale[r, g]
