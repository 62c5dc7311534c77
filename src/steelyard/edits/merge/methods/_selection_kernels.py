"""The loops of selection by histogram, compiled by numba; see `_selection`.

Keys are the bits of float32 numbers as uint32: of numbers that are not negative they stand in the numbers' order.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from steelyard.compiled import given, kernel

_KEYS = given(numba.uint32, 1)
_VECTOR: Any = numba.float32[::1]


@kernel(numba.void(_KEYS, numba.int64[::1]))
def tally(keys: np.ndarray, table: np.ndarray) -> None:
    """Add to the histogram of the upper 16 bits.

    Args:
        keys: uint32 [entries].
        table: int64 [65536], counts so far.
    """
    for i in range(keys.size):
        table[keys[i] >> np.uint32(16)] += 1


@kernel(numba.int64(_KEYS, numba.uint32, numba.uint16[::1]))
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


@kernel(numba.void(_VECTOR, _KEYS, numba.uint32))
def keep_from(values: np.ndarray, keys: np.ndarray, threshold: int) -> None:
    """Set to zero the values whose key lies below the threshold."""
    for i in range(values.size):
        values[i] = values[i] if keys[i] >= threshold else np.float32(0)


@kernel(numba.void(_VECTOR, _KEYS, numba.uint32, numba.int64, numba.uint32, numba.int64))
def keep_between(values: np.ndarray, keys: np.ndarray, threshold: int, ties: int, ceiling: int, above: int) -> None:
    """Set to zero the values outside a range of ranks, where equal keys rank by position.

    Args:
        values: float32 [entries], overwritten.
        keys: uint32 [entries].
        threshold: keys above it are in the range from below; of those equal to it, the first `ties`.
        ties: how many.
        ceiling: keys above it are too large for the range; of those equal to it, the first `above`.
        above: how many.
    """
    for i in range(values.size):
        key = keys[i]
        if key < threshold or key > ceiling:
            values[i] = np.float32(0)
            continue
        outside = False
        if key == threshold:
            outside = ties <= 0
            ties -= 1
        if key == ceiling:
            outside = outside or above > 0
            above -= 1
        if outside:
            values[i] = np.float32(0)
