"""One weight of a GGUF block at a time, from ggml's description of the blocks alone; compiled by numba.

It shares no code with the codecs: it asks, for each place in a block, which bits hold its number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, int64, uint8, void

from steelyard.compiled import given, inner, kernel

_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


@inner
def _half(low: int, high: int) -> Any:
    """Return the float16 of two bytes."""
    bits = low | high << 8
    exponent, fraction = (bits >> 10) & 31, bits & 1023
    if exponent == 0:
        value = np.float32(fraction) * np.float32(2.0**-24)
    elif exponent == 31:
        value = np.float32(np.inf) if fraction == 0 else np.float32(np.nan)
    else:
        value = np.float32(1024 + fraction) * np.float32(2.0 ** (exponent - 25))
    return -value if bits >> 15 else value


@inner
def _six_bits(b: np.ndarray, at: int, j: int, minimum: bool) -> Any:
    """Return scale or minimum j of the 12 bytes from `at` of Q4_K and Q5_K."""
    shift = 4 if minimum else 0
    if j < 4:
        return b[at + shift + j] & 63
    return (b[at + 4 + j] >> shift & 15) | (b[at + shift + j - 4] >> 6) << 4


@inner
def _weight(b: np.ndarray, kind: int, i: int) -> Any:
    """Return weight `i` of a block of GGUF's type `kind`."""
    if kind in (2, 3, 6, 7, 20, 39):
        lead = 1 if kind == 39 else 4 if kind in (3, 7) else 2
        fifth = 4 if kind in (6, 7) else 0
        q = int(b[lead + fifth + i % 16] >> (4 if i >= 16 else 0)) & 15
        if fifth:
            q |= (int(b[lead + i // 8]) >> (i % 8) & 1) << 4
        if kind == 39:
            return _FP4[q] * np.float32(2.0 ** (int(b[0]) - 128))
        d = _half(int(b[0]), int(b[1]))
        if kind == 20:
            return _IQ4[q] * d
        if kind in (3, 7):
            return np.float32(q) * d + _half(int(b[2]), int(b[3]))
        return np.float32(q - (8 if kind == 2 else 16)) * d
    if kind == 8:
        q = int(b[2 + i])
        return np.float32(q - 256 if q > 127 else q) * _half(int(b[0]), int(b[1]))
    half, inside = i // 128, i % 128
    if kind == 10:
        q = int(b[16 + half * 32 + inside % 32]) >> (inside // 32 * 2) & 3
        both = int(b[i // 16])
        scale = _half(int(b[80]), int(b[81])) * np.float32(both & 15)
        return scale * np.float32(q) - _half(int(b[82]), int(b[83])) * np.float32(both >> 4)
    if kind == 11:
        q = int(b[32 + half * 32 + inside % 32]) >> (inside // 32 * 2) & 3
        q -= 0 if int(b[i % 32]) >> (i // 32) & 1 else 4
        j = i // 16
        low = int(b[96 + j % 8]) >> (j // 8 * 4) & 15
        whole = (low | (int(b[104 + j % 4]) >> (j // 4 * 2) & 3) << 4) - 32
        return _half(int(b[108]), int(b[109])) * np.float32(whole) * np.float32(q)
    if kind in (12, 13):
        j = i // 32
        q = int(b[(16 if kind == 12 else 48) + i // 64 * 32 + i % 32]) >> (j % 2 * 4) & 15
        if kind == 13:
            q |= (int(b[16 + i % 32]) >> j & 1) << 4
        scale = _half(int(b[0]), int(b[1])) * np.float32(_six_bits(b, 4, j, False))
        return scale * np.float32(q) - _half(int(b[2]), int(b[3])) * np.float32(_six_bits(b, 4, j, True))
    if kind == 14:
        q = int(b[half * 64 + inside % 64]) >> (inside // 64 * 4) & 15
        q |= (int(b[128 + half * 32 + inside % 32]) >> (inside // 32 * 2) & 3) << 4
        whole = int(b[192 + i // 16])
        whole -= 256 if whole > 127 else 0
        return _half(int(b[208]), int(b[209])) * np.float32(whole) * np.float32(q - 32)
    if kind == 23:
        j = i // 32
        whole = (int(b[4 + j // 2]) >> (j % 2 * 4) & 15) | ((int(b[2]) | int(b[3]) << 8) >> (2 * j) & 3) << 4
        q = int(b[8 + j * 16 + i % 16]) >> (i % 32 // 16 * 4) & 15
        return _half(int(b[0]), int(b[1])) * np.float32(whole - 32) * _IQ4[q]
    if kind == 35:
        q = int(b[half * 32 + inside % 32]) >> (inside // 32 * 2) & 3
        return np.float32(q - 1) * _half(int(b[64]), int(b[65]))
    digit = i // 32 if i < 160 else (i - 160) // 16 if i < 240 else (i - 240) // 4
    byte = int(b[i % 32 if i < 160 else 32 + i % 16 if i < 240 else 48 + i % 4])
    for _ in range(digit):
        byte = byte * 3 & 255
    return np.float32((byte * 3 >> 8) - 1) * _half(int(b[52]), int(b[53]))


@kernel(void(given(uint8), int64, int64, float32[:, ::1]))
def rows(data: np.ndarray, kind: int, numbers: int, decoded: np.ndarray) -> None:
    """Write the weights of rows.

    Args:
        data: uint8 [rows, bytes of a row].
        kind: GGUF's number of the type.
        numbers: weights of a block.
        decoded: float32 [rows, columns], written.
    """
    blocks = decoded.shape[1] // numbers
    each = data.shape[1] // blocks
    for r in range(decoded.shape[0]):
        for k in range(blocks):
            block = data[r, k * each : (k + 1) * each]
            for i in range(numbers):
                decoded[r, k * numbers + i] = _weight(block, kind, i)
