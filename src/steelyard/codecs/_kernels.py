"""The native loops of the codecs, compiled by numba; imported only when something is encoded or decoded.

All of it is exact IEEE arithmetic in a fixed order, so results depend neither on threads nor on the width of the
machine's vectors. Floats are read as their bits because maxima of integers vectorise where maxima of floats, which
must order NaN, do not. A row is held as [groups, group], the last group padded with zeros, in scratch that stays
in the first-level cache: nothing wider than one row is ever made.

Everything stands in one file because numba's cache notices changes of a kernel's own file only.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, float64, int8, int32, int64, types, uint8, uint16, uint32, void

from steelyard.compiled import given, inner, kernel

BF16, F16, F32 = 0, 1, 2
"""How a float is stored; the kernels take it as a number."""

# Adding 1.5 * 2**23 to a float32 below 2**22 leaves it rounded half to even in the low bits of the sum.
_ROUND = np.float32(12582912.0)
_INFINITY = np.uint32(0x7F800000)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_ORDER = np.int32(0x7FFFFFFF)


@inner
def widen(source: np.ndarray, kind: int, wide: np.ndarray) -> None:
    """Write the bits of float32 to uint32 `wide` for bfloat16 or float16 given by theirs, uint16."""
    if kind == BF16:
        for j in range(source.size):
            wide[j] = np.uint32(source[j]) << np.uint32(16)
    else:
        for j in range(source.size):
            half = np.uint32(source[j])
            magnitude = np.uint32(half & np.uint32(0x7FFF))
            if magnitude >= np.uint32(0x7C00):  # infinity and NaN keep their exponent of ones
                bits = np.uint32(_INFINITY | np.uint32(magnitude << np.uint32(13)))
            elif magnitude < np.uint32(0x0400):  # below the smallest normal: a multiple of 2**-24
                bits = np.float32(np.float32(magnitude) * np.float32(2.0**-24)).view(np.uint32)
            else:
                bits = np.uint32(np.uint32(magnitude << np.uint32(13)) + np.uint32(112 << 23))
            wide[j] = np.uint32(bits | np.uint32(np.uint32(half & np.uint32(0x8000)) << np.uint32(16)))


@inner
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


@inner
def symmetric_scales(wide: np.ndarray, bits: int, kind: int, scales: np.ndarray) -> np.bool:
    """Write the scale of each group, max|x| / ((2**bits - 1) / 2) as stored; return whether all are finite.

    `wide` holds the bits of float32 [groups, group], `scales` takes float32 [groups].
    """
    half = np.float32(((1 << bits) - 1) / 2)
    top = np.uint32(0)
    for g in range(wide.shape[0]):
        largest = np.uint32(0)
        for j in range(wide.shape[1]):
            largest = max(largest, np.uint32(wide[g, j] & _MAGNITUDE))
        top = max(top, largest)
        scales[g] = round_scale(np.float32(np.uint32(largest).view(np.float32) / half), kind)
    return top < _INFINITY


@inner
def asymmetric_scales(wide: np.ndarray, bits: int, kind: int, scales: np.ndarray, zeros: np.ndarray) -> np.bool:
    """Write scale (max - min) / (2**bits - 1) and zero point of each group; return whether all are finite.

    `wide` holds the bits of float32 [groups, group] as int32, `zeros` takes float32 [groups]. The range of a group
    is widened to hold zero.
    """
    steps = np.float32((1 << bits) - 1)
    low = np.float32(-(1 << (bits - 1)))
    finite: np.bool = np.bool_(True)
    for g in range(wide.shape[0]):
        lowest = np.int32(0)
        highest = np.int32(0)
        for j in range(wide.shape[1]):  # the bits of floats, ordered as signed integers
            key = np.int32(wide[g, j] ^ np.int32(np.int32(wide[g, j] >> np.int32(31)) & _ORDER))
            lowest = min(lowest, key)
            highest = max(highest, key)
        finite &= highest < np.int32(0x7F800000) and lowest > np.int32(-0x7F800001)
        smallest = np.int32(lowest ^ np.int32(np.int32(lowest >> np.int32(31)) & _ORDER)).view(np.float32)
        largest = np.int32(highest).view(np.float32)
        scale = np.float32(np.float32(largest - smallest) / steps)
        scale = round_scale(scale, kind)
        zero = np.float32(np.rint(low - np.float32(smallest / scale)))
        scales[g] = scale
        zeros[g] = min(max(zero, low), np.float32(low + steps))
    return finite


@inner
def no_zeros(groups: int, bits: int) -> np.ndarray:
    """Return the zero points of symmetric codes: 0, or halfway between the two codes of 1 bit."""
    zeros = np.zeros(groups, np.float32)
    if bits == 1:
        zeros[:] = np.float32(-0.5)
    return zeros


@inner
def round_zero(value: np.float64, kind: int) -> np.float32:
    """Round a number to the scales' type, magnitudes below its smallest normal number to that."""
    magnitude = round_scale(np.float32(abs(value)), kind)
    return magnitude if value >= 0.0 else np.float32(-magnitude)


@inner
def two_levels(
    wide: np.ndarray, columns: int, symmetric: bool, kind: int, scales: np.ndarray, zeros: np.ndarray
) -> np.bool:
    """Write scale and zero point of each group for codes of 1 bit; return whether all numbers are finite.

    `wide` holds the bits of float32 [groups, group], `columns` of them in the row; sums are in float64.
    """
    group = wide.shape[1]
    top = np.uint32(0)
    for g in range(wide.shape[0]):
        count = min(group, columns - g * group)
        total, magnitude = 0.0, 0.0
        for j in range(count):
            top = max(top, np.uint32(wide[g, j] & _MAGNITUDE))
            value = np.float64(np.uint32(wide[g, j]).view(np.float32))
            total += value
            magnitude += abs(value)
        mean = total / count
        low, high, below = 0.0, 0.0, 0
        for j in range(count):
            value = np.float64(np.uint32(wide[g, j]).view(np.float32))
            if value < mean:
                low += value
                below += 1
            else:
                high += value
        if symmetric:
            # Nothing but zeros stays that: codes of 1 bit have no zero of their own.
            scales[g] = round_scale(np.float32(2.0 * magnitude / count), kind) if magnitude > 0.0 else np.float32(0)
            zeros[g] = np.float32(-0.5)
            continue
        low = low / max(below, 1)
        high = high / max(count - below, 1)
        step = np.float64(round_scale(np.float32(high - low), kind))
        if below == 0 or below == count or abs(mean) > 128.0 * step:  # one level alone
            scales[g] = round_scale(np.float32(abs(mean)), kind)
            zeros[g] = np.float32(-1.0) if mean > 0.0 else np.float32(0.0)
        else:
            scales[g] = np.float32(step)
            zeros[g] = round_zero(-0.5 - 0.5 * (high + low) / step, kind)
    return top < _INFINITY


@inner
def quantize_groups(x: np.ndarray, scales: np.ndarray, zeros: np.ndarray, bits: int, codes: np.ndarray) -> None:
    """Write round(x / scale + zero), clamped and shifted to [0, 2**bits), as uint8; all [groups, group]."""
    low = np.float32(-(1 << (bits - 1)))
    high = np.float32((1 << (bits - 1)) - 1)
    shift = np.uint32(1 << (bits - 1))
    for g in range(x.shape[0]):
        scale = scales[g] if scales[g] > np.float32(0.0) else np.float32(1.0)
        zero = zeros[g]
        for j in range(x.shape[1]):
            y = np.float32(np.float32(x[g, j] / scale) + zero)
            y = y if y > low else low
            y = y if y < high else high
            codes[g, j] = np.uint8(np.uint32(np.float32(y + _ROUND).view(np.uint32) + shift))


@inner
def dequantize_groups(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray, bits: int, x: np.ndarray) -> None:
    """Write (code - zero) * scale to `x` for codes in [0, 2**bits); both [groups, group]."""
    half = np.float32(1 << (bits - 1))
    for g in range(x.shape[0]):
        scale = scales[g]
        shift = half + zeros[g]
        for j in range(x.shape[1]):
            x[g, j] = (np.float32(codes[g, j]) - shift) * scale


@inner
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


@inner
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


@inner
def pack_row(codes: np.ndarray, bits: int, packed: np.ndarray) -> None:
    """Pack uint8 codes, padded with zeros to a multiple of 64, to uint64 `packed`, filling all of its words."""
    blocks = codes.view(np.uint64)
    if bits == 8:
        for j in range(packed.size):
            packed[j] = blocks[j]
    elif bits == 4:
        halves = packed.view(np.uint32)
        for j in range(halves.size):
            halves[j] = np.uint32(squeeze(blocks[j], 4))
    elif bits == 2:
        quarters = packed.view(np.uint16)
        for j in range(quarters.size):
            quarters[j] = np.uint16(squeeze(blocks[j], 2))
    else:
        word, filled, place = np.uint64(0), 0, 0
        for j in range(blocks.size):
            block = squeeze(blocks[j], bits)
            word |= block << np.uint64(filled)
            filled += 8 * bits
            if filled >= 64:
                packed[place] = word
                place += 1
                filled -= 64
                word = block >> np.uint64(8 * bits - filled)


@inner
def unpack_row(packed: np.ndarray, bits: int, codes: np.ndarray) -> None:
    """Undo `pack_row`."""
    blocks = codes.view(np.uint64)
    if bits == 8:
        for j in range(blocks.size):
            blocks[j] = packed[j]
    elif bits == 4:
        halves = packed.view(np.uint32)
        for j in range(halves.size):
            blocks[j] = spread(np.uint64(halves[j]), 4)
    elif bits == 2:
        quarters = packed.view(np.uint16)
        for j in range(quarters.size):
            blocks[j] = spread(np.uint64(quarters[j]), 2)
    else:
        word, left, place = np.uint64(0), 0, 0
        for j in range(blocks.size):
            block = word
            if left < 8 * bits:
                word = packed[place]
                place += 1
                block |= word << np.uint64(left)
                word >>= np.uint64(8 * bits - left)
                left += 64 - 8 * bits
            else:
                word >>= np.uint64(8 * bits)
                left -= 8 * bits
            blocks[j] = spread(block, bits)


@kernel(int64(given(uint8), int64, int64, int64, boolean, int64, int32[:, ::1], float32[:, ::1], float32[:, ::1]))
def encode(
    source: np.ndarray,
    kind: int,
    bits: int,
    group: int,
    symmetric: bool,
    scale_kind: int,
    packed: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray,
) -> int:
    """Quantize and pack rows of floats given as bytes; return the first row with NaN or infinity, or -1."""
    rows, groups = scales.shape
    columns = source.shape[1] // (4 if kind == F32 else 2)
    wide = np.zeros((groups, group), np.uint32)
    flat, signed, x = wide.reshape(-1), wide.view(np.int32), wide.view(np.float32)
    codes = np.zeros((groups * group + 63) // 64 * 64, np.uint8)
    grouped = codes[: groups * group].reshape(groups, group)
    words = np.empty(codes.size * bits // 64, np.uint64)
    halves = words.view(np.int32)
    zero = np.zeros(groups, np.float32)
    bad = -1
    for i in range(rows):
        if kind == F32:
            full = source[i].view(np.uint32)
            for j in range(columns):
                flat[j] = full[j]
        else:
            widen(source[i].view(np.uint16), kind, flat)
        if bits == 1:
            finite = two_levels(wide, columns, symmetric, scale_kind, scales[i], zero)
        elif symmetric:
            finite = symmetric_scales(wide, bits, scale_kind, scales[i])
        else:
            finite = asymmetric_scales(signed, bits, scale_kind, scales[i], zero)
        for g in range(zeros.shape[1]):
            zeros[i, g] = zero[g]
        if not finite and bad < 0:
            bad = i
        quantize_groups(x, scales[i], zero, bits, grouped)
        codes[columns:] = 0
        pack_row(codes, bits, words)
        for j in range(packed.shape[1]):
            packed[i, j] = halves[j]
    return bad


@kernel(void(given(float32), int64, int64, given(float32), given(float32), int8[:, ::1]))
def quantize(
    weight: np.ndarray, bits: int, group: int, scales: np.ndarray, zeros: np.ndarray, codes: np.ndarray
) -> None:
    """Round float32 rows to int8 codes under given scales and zero points ([rows, 0] where symmetric)."""
    rows, columns = weight.shape
    groups = scales.shape[1]
    x = np.zeros((groups, group), np.float32)
    scratch = np.zeros((groups, group), np.uint8)
    zero = no_zeros(groups, bits)
    flat, shifted = x.reshape(-1), scratch.reshape(-1)
    shift = np.int64(1 << (bits - 1))
    for i in range(rows):
        for j in range(columns):
            flat[j] = weight[i, j]
        for g in range(zeros.shape[1]):
            zero[g] = zeros[i, g]
        quantize_groups(x, scales[i], zero, bits, scratch)
        for j in range(columns):
            codes[i, j] = np.int8(np.int64(shifted[j]) - shift)


@kernel(void(given(int8), int64, int32[:, ::1]))
def pack(codes: np.ndarray, bits: int, packed: np.ndarray) -> None:
    """Pack rows of int8 codes in [-2**(bits-1), 2**(bits-1)) into 32-bit words."""
    rows, columns = codes.shape
    scratch = np.zeros((columns + 63) // 64 * 64, np.uint8)
    words = np.empty(scratch.size * bits // 64, np.uint64)
    halves = words.view(np.int32)
    shift = np.int64(1 << (bits - 1))
    for i in range(rows):
        for j in range(columns):
            scratch[j] = np.uint8(np.int64(codes[i, j]) + shift)
        pack_row(scratch, bits, words)
        for j in range(packed.shape[1]):
            packed[i, j] = halves[j]


@kernel(void(given(int32), int64, int8[:, ::1]))
def unpack(packed: np.ndarray, bits: int, codes: np.ndarray) -> None:
    """Undo `pack`."""
    rows, columns = codes.shape
    scratch = np.zeros((columns + 63) // 64 * 64, np.uint8)
    words = np.zeros(scratch.size * bits // 64, np.uint64)
    halves = words.view(np.int32)
    shift = np.int64(1 << (bits - 1))
    for i in range(rows):
        for j in range(packed.shape[1]):
            halves[j] = packed[i, j]
        unpack_row(words, bits, scratch)
        for j in range(columns):
            codes[i, j] = np.int8(np.int64(scratch[j]) - shift)


@kernel(void(given(int32), int64, int64, given(float32), given(float32), float32[:, ::1]))
def decode(
    packed: np.ndarray, bits: int, group: int, scales: np.ndarray, zeros: np.ndarray, weight: np.ndarray
) -> None:
    """Write (code - zero) * scale of packed rows to float32 `weight`."""
    rows, columns = weight.shape
    groups = scales.shape[1]
    codes = np.zeros((groups * group + 63) // 64 * 64, np.uint8)
    grouped = codes[: groups * group].reshape(groups, group)
    words = np.zeros(codes.size * bits // 64, np.uint64)
    halves = words.view(np.int32)
    zero = no_zeros(groups, bits)
    x = np.empty((groups, group), np.float32)
    flat = x.reshape(-1)
    for i in range(rows):
        for j in range(packed.shape[1]):
            halves[j] = packed[i, j]
        unpack_row(words, bits, codes)
        for g in range(zeros.shape[1]):
            zero[g] = zeros[i, g]
        dequantize_groups(grouped, scales[i], zero, bits, x)
        for j in range(columns):
            weight[i, j] = flat[j]


@kernel(types.UniTuple(float64, 2)(given(uint8), int64, int64, int64, given(int32), given(float32), given(float32)))
def residual(
    source: np.ndarray,
    kind: int,
    bits: int,
    group: int,
    packed: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray,
) -> tuple[float, float]:
    """Return the sums of squares of (decoded - source) and of source, for rows of floats given as bytes.

    Within a row every 64th term is summed in float32, which vectorises in a fixed order; then all in float64.
    """
    rows, groups = scales.shape
    columns = source.shape[1] // (4 if kind == F32 else 2)
    codes = np.zeros((groups * group + 63) // 64 * 64, np.uint8)
    grouped = codes[: groups * group].reshape(groups, group)
    words = np.zeros(codes.size * bits // 64, np.uint64)
    halves = words.view(np.int32)
    flat = np.zeros(codes.size, np.uint32)
    x = flat.view(np.float32).reshape(-1, 64)
    decoded = np.zeros(codes.size, np.float32)
    y = decoded.reshape(-1, 64)
    target = decoded[: groups * group].reshape(groups, group)
    zero = no_zeros(groups, bits)
    lost = np.zeros(64, np.float32)
    kept = np.zeros(64, np.float32)
    total_lost, total_kept = 0.0, 0.0
    for i in range(rows):
        if kind == F32:
            full = source[i].view(np.uint32)
            for j in range(columns):
                flat[j] = full[j]
        else:
            widen(source[i].view(np.uint16), kind, flat)
        for j in range(packed.shape[1]):
            halves[j] = packed[i, j]
        unpack_row(words, bits, codes)
        for g in range(zeros.shape[1]):
            zero[g] = zeros[i, g]
        dequantize_groups(grouped, scales[i], zero, bits, target)
        decoded[columns:] = 0.0
        lost[:] = 0.0
        kept[:] = 0.0
        for k in range(x.shape[0]):
            for j in range(64):
                difference = y[k, j] - x[k, j]
                lost[j] += difference * difference
                kept[j] += x[k, j] * x[k, j]
        for j in range(64):
            total_lost += np.float64(lost[j])
            total_kept += np.float64(kept[j])
    return total_lost, total_kept


@kernel(
    int64(given(uint16, 1), uint16, uint16),
    int64(given(uint32, 1), uint32, uint32),
)
def first_not_finite(source: np.ndarray, mask: int, exponent: int) -> int:
    """Return the first index whose bits under `mask` reach `exponent`, the bits of infinity, or -1."""
    for start in range(0, source.size, 4096):
        block = source[start : min(start + 4096, source.size)]
        largest = np.uint32(0)
        for j in range(block.size):
            largest = max(largest, np.uint32(block[j] & mask))
        if largest >= exponent:
            for j in range(block.size):
                if (block[j] & mask) >= exponent:
                    return start + j
    return -1
