"""The second reader's decoder of entropy-coded integers, compiled by numba; from docs/formats/entropy.md alone."""

from __future__ import annotations

import numpy as np
from numba import boolean, int16, int64, uint8

from steelyard.compiled import given, kernel


@kernel(boolean(given(uint8, 1), given(int64, 1), given(int64, 1), given(int64), int16[:, ::1]))
def run_of_rows(
    data: np.ndarray, row_class: np.ndarray, column_class: np.ndarray, halves: np.ndarray, levels: np.ndarray
) -> bool:
    """Decode a run of rows; return whether it ends with its bytes and with every state where it began.

    Args:
        data: uint8, the bytes of the run.
        row_class: of each row, less what contexts begin with.
        column_class: of each column.
        halves: int64 [contexts, magnitudes], frequencies.
        levels: int16 [rows, columns], written.
    """
    if data.size < 16:
        return False
    state = np.zeros(4, np.int64)
    for k in range(16):
        state[k // 4] |= np.int64(data[k]) << (8 * (k % 4))
    read = 16
    largest = halves.shape[1] - 1
    for i in range(levels.shape[0]):
        for j in range(levels.shape[1]):
            context = max(row_class[i] + column_class[j], 0)
            place = state[j % 4] % 4096
            level, below = -largest, 0
            while below + halves[context, abs(level)] <= place:
                below += halves[context, abs(level)]
                level += 1
            levels[i, j] = level
            state[j % 4] = halves[context, abs(level)] * (state[j % 4] // 4096) + place - below
            if state[j % 4] < 65536:
                if read + 2 > data.size:
                    return False
                state[j % 4] = state[j % 4] * 65536 + np.int64(data[read]) + 256 * np.int64(data[read + 1])
                read += 2
    for k in range(4):
        if state[k] != 65536:
            return False
    return read == data.size
