"""Loops over a weight and the product of an adapter, compiled."""

from __future__ import annotations

from typing import Any

from numba import float32, int64, void

from steelyard.compiled import given, kernel


@kernel(void(given(float32), given(float32), int64, float32[::1]))
def add_product(left: Any, right: Any, start: int, out: Any) -> None:
    """Add entries [start, start + n) of the flattened left @ right to n values.

    A library's product would wake its own threads for every piece, beside those that merge.

    Args:
        left: float32 [rows, rank].
        right: float32 [rank, columns].
        start: position of the first entry.
        out: float32 [n], added to.
    """
    rank, columns = right.shape
    whole = rank - rank % 4
    position = 0
    while position < out.size:
        row, column = divmod(start + position, columns)
        count = min(columns - column, out.size - position)
        piece = out[position : position + count]
        for k in range(0, whole, 4):
            a, b, c, d = left[row, k], left[row, k + 1], left[row, k + 2], left[row, k + 3]
            first, second = right[k, column : column + count], right[k + 1, column : column + count]
            third, fourth = right[k + 2, column : column + count], right[k + 3, column : column + count]
            for j in range(count):
                piece[j] += (a * first[j] + b * second[j]) + (c * third[j] + d * fourth[j])
        for k in range(whole, rank):
            a, first = left[row, k], right[k, column : column + count]
            for j in range(count):
                piece[j] += a * first[j]
        position += count
