"""The loops of the second reader, compiled by numba; written from the layout's specification, not from the codecs.

Numbers of b bits follow each other from the lowest bit of the first byte of a row: eight of them are b bytes.
"""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int64, types, uint8, uint16, void

from steelyard.compiled import given, inner, kernel

# Squares are summed in this many lanes, which makes vectors of them in a fixed order.
_LANES = 64


@inner
def _unpack_row(words: np.ndarray, bits: int, codes: np.ndarray) -> None:
    """Write the fields of one row to `codes` [eights * 8], given its bytes as uint64 and two more."""
    held = words.view(np.uint8)
    if bits == 8:
        for j in range(codes.size):
            codes[j] = held[j]
    elif bits == 4:  # loops over whole bytes become vectors
        for j in range(codes.size // 2):
            codes[2 * j] = held[j] & np.uint8(15)
            codes[2 * j + 1] = held[j] >> np.uint8(4)
    elif bits == 2:
        for j in range(codes.size // 4):
            for k in range(4):
                codes[4 * j + k] = (held[j] >> np.uint8(2 * k)) & np.uint8(3)
    else:
        width, mask = np.uint64(bits), np.uint64((1 << bits) - 1)
        for e in range(codes.size // 8):
            word, shift = (e * 8 * bits) >> 6, np.uint64((e * 8 * bits) & 63)
            # The upper word moves in two steps: a shift by 64 would be none.
            together = words[word] >> shift | (words[word + 1] << (np.uint64(63) - shift)) << np.uint64(1)
            for k in range(8):
                codes[8 * e + k] = np.uint8((together >> (np.uint64(k) * width)) & mask)


@inner
def _scale_groups(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, decoded: np.ndarray) -> None:
    """Write (field - zero) * scale; fields and values are [groups, group]."""
    for g in range(scale.size):
        s, z = scale[g], zero[g]
        for j in range(decoded.shape[1]):
            decoded[g, j] = (np.float32(codes[g, j]) - z) * s


@inner
def _padded(columns: int, groups: int, group: int) -> int:
    """Return how many numbers a row takes in scratch that holds whole groups and whole lanes."""
    wanted = max(columns, groups * group)
    return (wanted + _LANES - 1) // _LANES * _LANES


@inner
def _padded_words(columns: int, bits: int) -> np.ndarray:
    return np.zeros((columns + 7) // 8 * bits // 8 + 2, np.uint64)


@kernel(void(given(uint8), int64, int64, given(float32), given(float32), float32[:, ::1]))
def integer_rows(
    data: np.ndarray, bits: int, group: int, scale: np.ndarray, zero: np.ndarray, decoded: np.ndarray
) -> None:
    """Write (field - zero) * scale.

    Args:
        data: uint8 [rows, bytes of a row].
        bits: of a field, 1 to 8.
        group: columns that share a scale.
        scale: float32 [rows, groups].
        zero: float32 [rows, groups], what a field holds for the value 0.
        decoded: float32 [rows, columns], written.
    """
    rows, columns = decoded.shape
    groups = scale.shape[1]
    words = _padded_words(columns, bits)
    row_bytes = words.view(np.uint8)
    width = _padded(columns, groups, group)
    flat, codes = np.empty(width, np.float32), np.zeros(width, np.uint8)
    fields = codes[: (columns + 7) // 8 * 8]
    grouped = codes[: groups * group].reshape(groups, group)
    values = flat[: groups * group].reshape(groups, group)
    taken = min(data.shape[1], row_bytes.size)
    for r in range(rows):
        for j in range(taken):
            row_bytes[j] = data[r, j]
        _unpack_row(words, bits, fields)
        _scale_groups(grouped, scale[r], zero[r], values)
        decoded[r] = flat[:columns]


@kernel(
    types.UniTuple(float64, 2)(given(uint8), int64, int64, given(float32), given(float32), given(uint16)),
)
def integer_squares(
    data: np.ndarray, bits: int, group: int, scale: np.ndarray, zero: np.ndarray, original: np.ndarray
) -> tuple[float, float]:
    """Return the sums of squares of (field - zero) * scale - original and of original.

    Args:
        data: as for `integer_rows`.
        bits: as there.
        group: as there.
        scale: as there.
        zero: as there.
        original: [rows, columns], the bits of bfloat16 as uint16.
    """
    rows, columns = original.shape
    groups = scale.shape[1]
    words = _padded_words(columns, bits)
    row_bytes = words.view(np.uint8)
    width = _padded(columns, groups, group)
    decoded, codes = np.zeros(width, np.float32), np.zeros(width, np.uint8)
    fields = codes[: (columns + 7) // 8 * 8]
    grouped = codes[: groups * group].reshape(groups, group)
    values = decoded[: groups * group].reshape(groups, group)
    wide = np.zeros(width, np.uint32)
    before, after = wide.view(np.float32).reshape(-1, _LANES), decoded.reshape(-1, _LANES)
    lost, kept = np.zeros(_LANES, np.float32), np.zeros(_LANES, np.float32)
    all_lost, all_kept = 0.0, 0.0
    taken = min(data.shape[1], row_bytes.size)
    for r in range(rows):
        for j in range(taken):
            row_bytes[j] = data[r, j]
        _unpack_row(words, bits, fields)
        _scale_groups(grouped, scale[r], zero[r], values)
        decoded[columns:] = 0.0
        line = original[r]
        for j in range(columns):
            wide[j] = np.uint32(line[j]) << np.uint32(16)
        lost[:], kept[:] = 0.0, 0.0
        for k in range(before.shape[0]):
            for i in range(_LANES):
                difference = after[k, i] - before[k, i]
                lost[i] += difference * difference
                kept[i] += before[k, i] * before[k, i]
        for i in range(_LANES):
            all_lost += np.float64(lost[i])
            all_kept += np.float64(kept[i])
    return all_lost, all_kept
