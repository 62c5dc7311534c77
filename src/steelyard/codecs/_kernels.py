"""Kernels over rows of a matrix, one pass each; called through `steelyard.codecs.rows`."""

from __future__ import annotations

import numpy as np

from steelyard.codecs._bits import (
    asymmetric_scale,
    dequantize_row,
    pack_row,
    quantize_row,
    symmetric_scale,
    unpack_row,
    widen,
)
from steelyard.codecs._compile import kernel


@kernel
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
    """Quantize and pack rows of floats given by their bits; return the first row with NaN or infinity, or -1.

    Nothing wider than one group of float32 and one row of codes is held: both stay in the first-level cache.
    """
    rows, columns = source.shape
    x = np.empty(min(group, columns), np.float32)
    codes = np.zeros((columns + 31) // 32 * 32, np.uint8)
    bad = -1
    for i in range(rows):
        row = source[i]
        for g in range(scales.shape[1]):
            start = g * group
            stop = min(start + group, columns)
            part = x[: stop - start]
            widen(row[start:stop], kind, part)
            if symmetric:
                scale, zero, finite = symmetric_scale(part, bits, scale_kind)
            else:
                scale, zero, finite = asymmetric_scale(part, bits, scale_kind)
                zeros[i, g] = np.int8(zero)
            scales[i, g] = scale
            if not finite and bad < 0:
                bad = i
            quantize_row(part, scale, zero, bits, codes[start:stop])
        pack_row(codes, bits, packed[i])
    return bad


@kernel
def quantize(
    weight: np.ndarray, bits: int, group: int, scales: np.ndarray, zeros: np.ndarray, codes: np.ndarray
) -> None:
    """Round float32 rows to int8 codes under given scales and zero points ([rows, 0] where symmetric)."""
    rows, columns = weight.shape
    scratch = np.empty(min(group, columns), np.uint8)
    shift = 1 << (bits - 1)
    for i in range(rows):
        for g in range(scales.shape[1]):
            start = g * group
            stop = min(start + group, columns)
            zero = np.float32(zeros[i, g]) if zeros.shape[1] else np.float32(0.0)
            quantize_row(weight[i, start:stop], scales[i, g], zero, bits, scratch[: stop - start])
            for j in range(stop - start):
                codes[i, start + j] = np.int8(np.int64(scratch[j]) - shift)


@kernel
def pack(codes: np.ndarray, bits: int, packed: np.ndarray) -> None:
    """Pack rows of int8 codes in [-2**(bits-1), 2**(bits-1)) into bytes of 32-bit words."""
    rows, columns = codes.shape
    scratch = np.zeros((columns + 31) // 32 * 32, np.uint8)
    shift = 1 << (bits - 1)
    for i in range(rows):
        for j in range(columns):
            scratch[j] = np.uint8(codes[i, j] + shift)
        pack_row(scratch, bits, packed[i])


@kernel
def unpack(packed: np.ndarray, bits: int, codes: np.ndarray) -> None:
    """Undo `pack`."""
    rows, columns = codes.shape
    scratch = np.zeros((columns + 31) // 32 * 32, np.uint8)
    shift = 1 << (bits - 1)
    for i in range(rows):
        unpack_row(packed[i], bits, scratch)
        for j in range(columns):
            codes[i, j] = np.int8(np.int64(scratch[j]) - shift)


@kernel
def decode(
    packed: np.ndarray, bits: int, group: int, scales: np.ndarray, zeros: np.ndarray, weight: np.ndarray
) -> None:
    """Write (code - zero) * scale of packed rows to float32 `weight`."""
    rows, columns = weight.shape
    scratch = np.zeros((columns + 31) // 32 * 32, np.uint8)
    for i in range(rows):
        unpack_row(packed[i], bits, scratch)
        for g in range(scales.shape[1]):
            start = g * group
            stop = min(start + group, columns)
            zero = np.float32(zeros[i, g]) if zeros.shape[1] else np.float32(0.0)
            dequantize_row(scratch[start:stop], scales[i, g], zero, bits, weight[i, start:stop])


@kernel
def first_not_finite(source: np.ndarray, mask: int, exponent: int) -> int:
    """Return the first index whose bits under `mask` reach `exponent`, the bits of infinity, or -1."""
    for start in range(0, source.size, 4096):
        stop = min(start + 4096, source.size)
        block = source[start:stop]
        found = False
        for j in range(block.size):
            found |= (block[j] & mask) >= exponent
        if found:
            for j in range(block.size):
                if (block[j] & mask) >= exponent:
                    return start + j
    return -1
