"""The loops of selection by histogram, compiled by numba; see `_selection`.

Keys are the bits of float32 numbers as uint32: of numbers that are not negative they stand in the numbers' order.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from steelyard.compiled import given, kernel

_KEYS = given(numba.uint32, 1)
_ROW = given(numba.float32, 1)
_VECTOR: Any = numba.float32[::1]
_TABLE: Any = numba.int64[::1]
_FOUND: Any = numba.uint16[::1]
_TILE = 1024


@kernel(numba.void(_KEYS, _TABLE))
def tally(keys: np.ndarray, table: np.ndarray) -> None:
    """Add to the histogram of the upper 16 bits.

    Args:
        keys: uint32 [entries].
        table: int64 [65536], counts so far.
    """
    for i in range(keys.size):
        table[keys[i] >> np.uint32(16)] += 1


@kernel(numba.int64(_KEYS, numba.uint32, _FOUND))
def gather(keys: np.ndarray, upper: int, found: np.ndarray) -> int:
    """Collect the lower 16 bits of the keys with the given upper 16 bits.

    Args:
        keys: uint32 [entries].
        upper: the upper 16 bits looked for.
        found: uint16 [entries], overwritten from the front.

    Returns:
        how many were found.
    """
    count = 0
    for i in range(keys.size):
        if keys[i] >> np.uint32(16) == upper:
            found[count] = np.uint16(keys[i] & np.uint32(0xFFFF))
            count += 1
    return count


@kernel(numba.void(_ROW, _ROW, _TABLE))
def tally_differences(left: np.ndarray, right: np.ndarray, table: np.ndarray) -> None:
    """Do as `tally` for the magnitudes of the differences of two rows, float32 [entries]."""
    difference = np.empty(_TILE, np.float32)
    bits = difference.view(np.uint32)
    for start in range(0, left.size, _TILE):
        size = min(_TILE, left.size - start)
        first, second = left[start : start + size], right[start : start + size]
        for i in range(size):
            difference[i] = first[i] - second[i]
        for i in range(size):
            table[(bits[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(16)] += 1


@kernel(numba.int64(_ROW, _ROW, numba.uint32, _FOUND))
def gather_differences(left: np.ndarray, right: np.ndarray, upper: int, found: np.ndarray) -> int:
    """Do as `gather` for the magnitudes of the differences of two rows, float32 [entries]."""
    difference = np.empty(_TILE, np.float32)
    bits = difference.view(np.uint32)
    count = 0
    for start in range(0, left.size, _TILE):
        size = min(_TILE, left.size - start)
        first, second = left[start : start + size], right[start : start + size]
        for i in range(size):
            difference[i] = first[i] - second[i]
        for i in range(size):
            if (bits[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(16) == upper:
                found[count] = np.uint16(bits[i] & np.uint32(0xFFFF))
                count += 1
    return count


@kernel(numba.void(_VECTOR, _KEYS, numba.uint32, numba.uint32))
def keep_between(values: np.ndarray, keys: np.ndarray, floor: int, ceiling: int) -> None:
    """Set to zero the values whose key lies below the floor, or not below the ceiling."""
    for i in range(values.size):
        values[i] = values[i] if floor <= keys[i] < ceiling else np.float32(0)


@kernel(numba.void(_VECTOR, _KEYS, numba.uint32, numba.int64, numba.boolean))
def part_equal(values: np.ndarray, keys: np.ndarray, key: int, first: int, keep: bool) -> None:
    """Keep, or set to zero, the first of the values with a given key; do the other to the rest of them.

    Args:
        values: float32 [entries], overwritten.
        keys: uint32 [entries].
        key: the one.
        first: how many.
        keep: whether it is the first that stay.
    """
    for i in range(values.size):
        if keys[i] == key:
            if (first > 0) != keep:
                values[i] = np.float32(0)
            first -= 1
