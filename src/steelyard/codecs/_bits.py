"""Scalar and row kernels every integer kernel is made of: float bits, scales, codes, dense packing.

Imported only when something is encoded or decoded, for it imports numba. All of it is exact IEEE arithmetic in
a fixed order, so results do not depend on threads or on the width of the machine's vectors. Numbers are read as
their bits because maxima of integers vectorise where maxima of floats, which must order NaN, do not.
"""

from __future__ import annotations

import numpy as np

from steelyard.codecs._compile import kernel

BF16, F16, F32 = 0, 1, 2
"""How a float is stored; the kernels take it as a number."""

# Adding 1.5 * 2**23 to a float32 below 2**22 leaves it rounded half to even in the low bits of the sum.
_ROUND = np.float32(12582912.0)
_EXPONENT = np.uint32(0x7F800000)


@kernel
def widen(source: np.ndarray, kind: int, x: np.ndarray) -> None:
    """Write the floats whose bits are `source` (uint16, or uint32 for F32) to `x` as float32."""
    n = source.size
    bits = x.view(np.uint32)
    if kind == BF16:
        for j in range(n):
            bits[j] = np.uint32(source[j]) << np.uint32(16)
    elif kind == F16:
        for j in range(n):
            half = np.uint32(source[j])
            magnitude = half & np.uint32(0x7FFF)
            if magnitude >= np.uint32(0x7C00):  # infinity and NaN keep their exponent of ones
                wide = _EXPONENT | (magnitude << np.uint32(13))
            elif magnitude < np.uint32(0x0400):  # below the smallest normal: a multiple of 2**-24
                wide = np.float32(np.float32(magnitude) * np.float32(2.0**-24)).view(np.uint32)
            else:
                wide = (magnitude << np.uint32(13)) + np.uint32(112 << 23)
            bits[j] = wide | ((half & np.uint32(0x8000)) << np.uint32(16))
    else:
        for j in range(n):
            bits[j] = source[j]


@kernel
def round_scale(value: np.float32, kind: int) -> np.float32:
    """Round a non-negative float32 to a value a scale stored as `kind` can hold: finite and above zero."""
    if kind == BF16:
        bits = np.float32(min(value, np.float32(3.3895314e38))).view(np.uint32)
        bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        value, smallest = np.uint32(bits).view(np.float32), np.float32(2.0**-126)
    elif kind == F16:
        value, smallest = min(value, np.float32(65504.0)), np.float32(2.0**-14)
        if value < smallest:
            value = np.float32(np.rint(value * np.float32(2.0**24))) * np.float32(2.0**-24)
        else:
            bits = np.float32(value).view(np.uint32)
            bits = (bits + np.uint32(0x0FFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
            value = np.uint32(bits).view(np.float32)
    else:
        value, smallest = min(value, np.float32(3.4028235e38)), np.float32(2.0**-126)
    return value if value > np.float32(0.0) else smallest


@kernel
def symmetric_scale(x: np.ndarray, bits: int, kind: int) -> tuple[np.float32, np.float32, np.bool]:
    """Return (scale, zero point 0, finite) of a group: max|x| / ((2**bits - 1) / 2), rounded as stored."""
    raw = x.view(np.uint32)
    largest = np.uint32(0)
    for j in range(raw.size):
        largest = max(largest, np.uint32(raw[j] & np.uint32(0x7FFFFFFF)))
    scale = np.uint32(largest).view(np.float32) / np.float32(((1 << bits) - 1) / 2)
    return round_scale(np.float32(scale), kind), np.float32(0.0), largest < _EXPONENT


@kernel
def asymmetric_scale(x: np.ndarray, bits: int, kind: int) -> tuple[np.float32, np.float32, np.bool]:
    """Return (scale, zero point, finite) of a group: (max - min) / (2**bits - 1), with zero in the range."""
    raw = x.view(np.int32)
    lowest = np.int32(0)
    highest = np.int32(0)
    for j in range(raw.size):  # bits of floats ordered as signed integers
        key = np.int32(raw[j] ^ ((raw[j] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
        lowest = min(lowest, key)
        highest = max(highest, key)
    finite = highest < np.int32(0x7F800000) and lowest > np.int32(-0x7F800001)
    smallest = np.int32(lowest ^ ((lowest >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)
    largest = np.int32(highest).view(np.float32)
    steps = np.float32((1 << bits) - 1)
    scale = np.float32(np.float32(largest - smallest) / steps)
    if not scale < np.float32(np.inf):  # the difference overflowed though both ends are finite
        scale = np.float32(np.float32(largest / steps) - np.float32(smallest / steps))
    scale = round_scale(scale, kind)
    low = np.float32(-(1 << (bits - 1)))
    zero = np.float32(np.rint(low - np.float32(smallest / scale)))
    return scale, min(max(zero, low), np.float32(low + steps)), finite


@kernel
def quantize_row(x: np.ndarray, scale: np.float32, zero: np.float32, bits: int, codes: np.ndarray) -> None:
    """Write round(x / scale + zero), clamped and shifted to [0, 2**bits), to the uint8 `codes`."""
    low = np.float32(-(1 << (bits - 1)))
    high = np.float32((1 << (bits - 1)) - 1)
    shift = np.uint32(1 << (bits - 1))
    for j in range(x.size):
        y = np.float32(x[j] / scale) + zero
        y = y if y > low else low
        y = y if y < high else high
        codes[j] = np.uint8(np.uint32(np.float32(y + _ROUND).view(np.uint32) + shift))


@kernel
def dequantize_row(codes: np.ndarray, scale: np.float32, zero: np.float32, bits: int, x: np.ndarray) -> None:
    """Write (code - zero) * scale to `x` for codes in [0, 2**bits)."""
    shift = np.float32(1 << (bits - 1)) + zero
    for j in range(x.size):
        x[j] = (np.float32(codes[j]) - shift) * scale


@kernel
def squeeze(block: np.uint64, bits: int) -> np.uint64:
    """Move eight fields of `bits` bits from the eight bytes of a uint64 to its low end."""
    width = np.uint64(bits)
    block = (block & np.uint64(0x00FF00FF00FF00FF)) | (
        (block & np.uint64(0xFF00FF00FF00FF00)) >> (np.uint64(8) - width)
    )
    block = (block & np.uint64(0x0000FFFF0000FFFF)) | (
        (block & np.uint64(0xFFFF0000FFFF0000)) >> (np.uint64(16) - np.uint64(2) * width)
    )
    return (block & np.uint64(0x00000000FFFFFFFF)) | (
        (block & np.uint64(0xFFFFFFFF00000000)) >> (np.uint64(32) - np.uint64(4) * width)
    )


@kernel
def spread(block: np.uint64, bits: int) -> np.uint64:
    """Undo `squeeze`: the low eight fields of `bits` bits, one to each byte."""
    width = np.uint64(bits)
    one = np.uint64(1)
    low = (one << (np.uint64(4) * width)) - one
    block = (block & low) | ((block << (np.uint64(32) - np.uint64(4) * width)) & (low << np.uint64(32)))
    low = ((one << (np.uint64(2) * width)) - one) * np.uint64(0x0000000100000001)
    block = (block & low) | ((block << (np.uint64(16) - np.uint64(2) * width)) & (low << np.uint64(16)))
    low = ((one << width) - one) * np.uint64(0x0001000100010001)
    return (block & low) | ((block << (np.uint64(8) - width)) & (low << np.uint64(8)))


@kernel
def pack_row(codes: np.ndarray, bits: int, packed: np.ndarray) -> None:
    """Pack uint8 codes (padded with zeros to a multiple of 32) into the bytes of a row of 32-bit words.

    Code i takes the bits [i * bits, (i + 1) * bits) of the row, least significant first: eight codes make
    `bits` whole bytes, which is why no word boundary has to be treated.
    """
    blocks = codes.view(np.uint64)
    if bits == 8:
        for j in range(packed.size):
            packed[j] = codes[j]
    elif bits == 4:
        words = packed.view(np.uint32)
        for j in range(words.size):
            words[j] = np.uint32(squeeze(blocks[j], 4))
    elif bits == 2:
        halves = packed.view(np.uint16)
        for j in range(halves.size):
            halves[j] = np.uint16(squeeze(blocks[j], 2))
    else:
        full = packed.size // bits
        for j in range(full):
            block = squeeze(blocks[j], bits)
            for k in range(bits):
                packed[j * bits + k] = np.uint8(block >> np.uint64(8 * k))
        if full * bits < packed.size:
            block = squeeze(blocks[full], bits)
            for k in range(packed.size - full * bits):
                packed[full * bits + k] = np.uint8(block >> np.uint64(8 * k))


@kernel
def unpack_row(packed: np.ndarray, bits: int, codes: np.ndarray) -> None:
    """Undo `pack_row`; `codes` is padded to a multiple of 32 and its padding holds no promise."""
    blocks = codes.view(np.uint64)
    if bits == 8:
        for j in range(packed.size):
            codes[j] = packed[j]
    elif bits == 4:
        words = packed.view(np.uint32)
        for j in range(words.size):
            blocks[j] = spread(np.uint64(words[j]), 4)
    elif bits == 2:
        halves = packed.view(np.uint16)
        for j in range(halves.size):
            blocks[j] = spread(np.uint64(halves[j]), 2)
    else:
        for j in range((packed.size + bits - 1) // bits):
            block = np.uint64(0)
            for k in range(min(bits, packed.size - j * bits)):
                block |= np.uint64(packed[j * bits + k]) << np.uint64(8 * k)
            blocks[j] = spread(block, bits)
