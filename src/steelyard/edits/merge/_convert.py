"""Stored floats to float32 and back, a few entries at a time, with what is not finite found on the way.

Whole numbers are narrowed after every step: numba widens them to 64 bits, which would halve what a processor does
at a time.
"""

from __future__ import annotations

import numpy as np
from numba import types

from steelyard.compiled import given, inner, kernel

_BITS16 = given(types.uint16, 1)
_BITS32 = given(types.uint32, 1)
_OUT = types.Array(types.float32, 1, "C")
_OUT16 = types.Array(types.uint16, 1, "C")


@inner
def _from_bfloat16(bits: np.uint16) -> np.float32:
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@inner
def _from_half(bits: np.uint16) -> np.float32:
    # The exponent is rebiased by a product, which also makes subnormal numbers normal.
    magnitude = np.uint32(np.uint32(bits & np.uint16(0x7FFF)) << np.uint32(13)).view(np.float32)
    scaled = np.float32(magnitude * np.float32(5.192296858534828e33))  # 2 ** 112
    sign = np.uint32(np.uint32(bits & np.uint16(0x8000)) << np.uint32(16))
    return np.uint32(np.float32(scaled).view(np.uint32) | sign).view(np.float32)


@kernel(types.boolean(_BITS16, _OUT))
def widen_bfloat16(source: np.ndarray, out: np.ndarray) -> bool:
    """Write bfloat16 bits as float32; tell whether all are finite."""
    bad = np.uint32(0)
    for i in range(source.size):
        bits = source[i]
        bad = np.uint32(bad | np.uint32((bits & np.uint16(0x7F80)) == np.uint16(0x7F80)))
        out[i] = _from_bfloat16(bits)
    return bool(bad == 0)


@kernel(types.boolean(_BITS16, _OUT))
def widen_half(source: np.ndarray, out: np.ndarray) -> bool:
    """Write float16 bits as float32; tell whether all are finite."""
    bad = np.uint32(0)
    for i in range(source.size):
        bits = source[i]
        bad = np.uint32(bad | np.uint32((bits & np.uint16(0x7C00)) == np.uint16(0x7C00)))
        out[i] = _from_half(bits)
    return bool(bad == 0)


@kernel(types.boolean(_BITS32, _OUT))
def widen_single(source: np.ndarray, out: np.ndarray) -> bool:
    """Copy float32 bits; tell whether all are finite."""
    bad = np.uint32(0)
    for i in range(source.size):
        bits = source[i]
        bad = np.uint32(bad | np.uint32((bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000)))
        out[i] = np.uint32(bits).view(np.float32)
    return bool(bad == 0)


@kernel(types.boolean(_BITS16, types.float32, types.boolean, _OUT))
def add_bfloat16(source: np.ndarray, weight: float, fresh: bool, out: np.ndarray) -> bool:
    """Add a multiple of bfloat16 bits to float32 entries, or begin with it.

    What is not finite makes sums that are not; they are found when the sums are rounded.
    """
    if fresh:
        for i in range(source.size):
            out[i] = weight * _from_bfloat16(source[i])
    else:
        for i in range(source.size):
            out[i] += weight * _from_bfloat16(source[i])
    return True


@kernel(types.boolean(_BITS16, types.float32, types.boolean, _OUT))
def add_half(source: np.ndarray, weight: float, fresh: bool, out: np.ndarray) -> bool:
    """Add a multiple of float16 bits to float32 entries, or begin with it; tell whether all are finite."""
    bad = np.uint32(0)
    if fresh:
        for i in range(source.size):
            bits = source[i]
            bad = np.uint32(bad | np.uint32((bits & np.uint16(0x7C00)) == np.uint16(0x7C00)))
            out[i] = weight * _from_half(bits)
    else:
        for i in range(source.size):
            bits = source[i]
            bad = np.uint32(bad | np.uint32((bits & np.uint16(0x7C00)) == np.uint16(0x7C00)))
            out[i] += weight * _from_half(bits)
    return bool(bad == 0)


@kernel(types.boolean(_BITS32, types.float32, types.boolean, _OUT))
def add_single(source: np.ndarray, weight: float, fresh: bool, out: np.ndarray) -> bool:
    """Add a multiple of float32 bits to float32 entries, or begin with it, as `add_bfloat16` does."""
    if fresh:
        for i in range(source.size):
            out[i] = weight * np.uint32(source[i]).view(np.float32)
    else:
        for i in range(source.size):
            out[i] += weight * np.uint32(source[i]).view(np.float32)
    return True


@kernel(types.boolean(_BITS32, _OUT16))
def narrow_bfloat16(source: np.ndarray, out: np.ndarray) -> bool:
    """Round float32 bits half to even to bfloat16; tell whether all are finite."""
    bad = np.uint32(0)
    for i in range(source.size):
        bits = source[i]
        odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        # Infinity and NaN would wrap; both are found by the exponent before rounding, overflow by that after it.
        rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd)
        overflow = np.uint32((rounded & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
        infinite = np.uint32((bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
        bad = np.uint32(bad | np.uint32(overflow | infinite))
        out[i] = np.uint16(np.uint32(rounded >> np.uint32(16)))
    return bool(bad == 0)


@kernel(types.boolean(_BITS32, _OUT16))
def narrow_half(source: np.ndarray, out: np.ndarray) -> bool:
    """Round float32 bits half to even to float16; tell whether all are finite there."""
    bad = np.uint32(0)
    for i in range(source.size):
        bits = source[i]
        sign = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000))
        size = np.uint32(bits & np.uint32(0x7FFFFFFF))
        # Adding 0.5 moves the bits of a subnormal half into the last places, rounded.
        raised = np.float32(np.uint32(size).view(np.float32) + np.float32(0.5))
        small = np.uint32(np.float32(raised).view(np.uint32) - np.uint32(0x3F000000))
        odd = np.uint32(np.uint32(size >> np.uint32(13)) & np.uint32(1))
        # The exponent is rebiased by 15 - 127 in numbers that wrap.
        large = np.uint32(np.uint32(np.uint32(size + np.uint32(0xC8000FFF)) + odd) >> np.uint32(13))
        value = small if size < np.uint32(0x38800000) else large
        bad = np.uint32(bad | np.uint32(size >= np.uint32(0x477FF000)))  # rounds to 65536 or more
        out[i] = np.uint16(np.uint32(value | sign))
    return bool(bad == 0)


@kernel(types.boolean(_BITS32))
def finite(source: np.ndarray) -> bool:
    """Tell whether all float32 bits are of finite numbers."""
    bad = np.uint32(0)
    for i in range(source.size):
        bad = np.uint32(bad | np.uint32((source[i] & np.uint32(0x7F800000)) == np.uint32(0x7F800000)))
    return bool(bad == 0)
