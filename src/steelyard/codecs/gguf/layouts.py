"""Where each field of a block lies: from floats, whole numbers and codes to GGUF's bytes and back.

Layouts: ggml's `ggml-common.h` and `ggml-quants.c`. Fields of a matrix are arrays by row; its bytes are uint8
[blocks, bytes of a block].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.codecs.gguf.types import NUMBERS, TYPES

_NIBBLES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4")
_MINIMA = ("Q4_1", "Q5_1")
_THREES = np.array([81, 27, 9, 3, 1], np.uint16)


@dataclass(frozen=True)
class Fields:
    """What a matrix of blocks holds.

    Attributes:
        floats: float32 [2, rows, blocks]: of scales; of minima, or of their negatives where they are whole.
        whole: int16 [2, rows, groups]: what the floats are multiplied by; empty groups where there are none.
        codes: uint8 [rows, columns]: place of each level among all.
    """

    floats: np.ndarray
    whole: np.ndarray
    codes: np.ndarray


def pack(name: str, fields: Fields) -> np.ndarray:
    """Return the blocks of a type, uint8 [rows, bytes of a row]."""
    kind = TYPES[NUMBERS[name]]
    rows, columns = fields.codes.shape
    count = rows * columns // kind.numbers
    codes = fields.codes.reshape(count, kind.numbers)
    whole = fields.whole.reshape(2, count, -1)
    d, least = (_halves(part) for part in fields.floats.reshape(2, count, 1))
    if name == "MXFP4":
        scale = np.frexp(fields.floats[0].reshape(count, 1).astype(np.float64))[1] - 1 + 128
        # Places among the sorted levels to sign and magnitude.
        parts = [scale.astype(np.uint8), _halves_of(np.array(_FP4_CODES, np.uint8)[codes])]
    elif name in _NIBBLES:
        high = [_bits(codes >> 4)] if name.startswith("Q5") else []
        parts = [d, *([least] if name in _MINIMA else []), *high, _halves_of(codes & 15)]
    elif name == "Q8_0":
        parts = [d, codes - np.uint8(127)]
    elif name == "Q2_K":
        parts = [(whole[0] | whole[1] << 4).astype(np.uint8), _quarters(codes), d, least]
    elif name == "Q3_K":
        parts = [_bits_across(codes >> 2), _quarters(codes & 3), _scales_of_16(whole[0] + 32), d]
    elif name in ("Q4_K", "Q5_K"):
        high = [_bits_across(codes >> 4)] if name == "Q5_K" else []
        parts = [d, least, _scales_and_minima(whole), *high, _halves_of(codes.reshape(count, 4, 64) & 15)]
    elif name == "Q6_K":
        sixes = codes.reshape(count, 2, 128)
        parts = [_halves_of(sixes & 15), _quarters(codes >> 4), whole[0].astype(np.int8).view(np.uint8), d]
    elif name == "IQ4_XS":
        scale = (whole[0] + 32).astype(np.uint16)
        upper = np.bitwise_or.reduce(scale >> 4 << 2 * np.arange(8, dtype=np.uint16), axis=1, keepdims=True)
        lower = (scale[:, 0::2] & 15 | (scale[:, 1::2] & 15) << 4).astype(np.uint8)
        parts = [d, upper.astype("<u2").view(np.uint8), lower, _halves_of(codes.reshape(count, 8, 32))]
    elif name == "TQ2_0":
        parts = [_quarters(codes), d]
    else:
        parts = [_threes(codes[:, :160], 32), _threes(codes[:, 160:240], 16), _threes(codes[:, 240:], 4), d]
    flat = [part.reshape(count, -1) for part in parts]
    return np.concatenate(flat, axis=1).reshape(rows, columns // kind.numbers * kind.nbytes)


def unpack(name: str, blocks: np.ndarray) -> Fields:
    """Undo `pack`.

    Args:
        name: of the type.
        blocks: uint8 [rows, bytes of a row].
    """
    kind = TYPES[NUMBERS[name]]
    rows = len(blocks)
    data = _Reader(np.ascontiguousarray(blocks).reshape(-1, kind.nbytes))
    count = len(data.blocks)
    floats = np.zeros((2, count), np.float32)
    whole = np.zeros((2, count, 0), np.int16)
    if name == "MXFP4":
        floats[0] = np.ldexp(1.0, data.take(1)[:, 0].astype(np.int32) - 128)
        codes = FP4_PLACES[data.nibbles(16)]
    elif name in _NIBBLES:
        floats[0] = data.half()
        floats[1] = data.half() if name in _MINIMA else 0.0
        high = data.bits(4) << 4 if name.startswith("Q5") else np.uint8(0)
        codes = data.nibbles(16) | high
    elif name == "Q8_0":
        floats[0] = data.half()
        codes = data.take(32) + np.uint8(127)
    elif name == "Q2_K":
        pair = data.take(16)
        whole = np.stack([pair & 15, pair >> 4])
        codes = data.quarters(64)
        floats[0], floats[1] = data.half(), data.half()
    elif name == "Q3_K":
        high = data.bits_across(8)
        codes = data.quarters(64) | high << 2
        whole = np.stack([data.scales_of_16(), np.zeros((count, 16), np.int16)])
        floats[0] = data.half()
    elif name in ("Q4_K", "Q5_K"):
        floats[0], floats[1] = data.half(), data.half()
        whole = data.scales_and_minima()
        high = data.bits_across(8) << 4 if name == "Q5_K" else np.uint8(0)
        codes = data.nibbles(128, 4) | high
    elif name == "Q6_K":
        lower = data.nibbles(128, 2)
        codes = lower | data.quarters(64) << 4
        scale = data.take(16).view(np.int8)
        whole = np.stack([scale, np.zeros_like(scale)])
        floats[0] = data.half()
    elif name == "IQ4_XS":
        floats[0] = data.half()
        upper = data.take(2).view("<u2") >> (2 * np.arange(8, dtype=np.uint16)) & 3
        pair = data.take(4)
        lower = np.stack([pair & 15, pair >> 4], axis=-1).reshape(count, 8)
        scale = (lower | upper << 4).astype(np.int16) - 32
        whole = np.stack([scale, np.zeros_like(scale)])
        codes = data.nibbles(128, 8)
    elif name == "TQ2_0":
        codes = data.quarters(64)
        floats[0] = data.half()
    else:
        codes = np.concatenate([data.threes(32, 5), data.threes(16, 5), data.threes(4, 4)], axis=1)
        floats[0] = data.half()
    return Fields(
        floats.reshape(2, rows, -1),
        whole.astype(np.int16).reshape(2, rows, -1),
        codes.astype(np.uint8).reshape(rows, -1),
    )


# Sign and magnitude of the sorted levels of a 4-bit float; the code of negative zero is read as zero's.
_FP4_CODES = [15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7]
FP4_PLACES = np.array([7, 8, 9, 10, 11, 12, 13, 14, 7, 6, 5, 4, 3, 2, 1, 0])


def _halves(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values).astype("<f2").view(np.uint8)


def _halves_of(codes: np.ndarray) -> np.ndarray:
    """Put the second half of the last axis above the first, a nibble each."""
    middle = codes.shape[-1] // 2
    packed: np.ndarray = codes[..., :middle] | codes[..., middle:] << 4
    return packed


def _bits(codes: np.ndarray) -> np.ndarray:
    """Pack 32 single bits to 4 bytes, the first lowest."""
    return np.packbits(codes, axis=1, bitorder="little")


def _bits_across(codes: np.ndarray) -> np.ndarray:
    """Pack 256 single bits to 32 bytes: bit k of byte j is that of weight 32 k + j."""
    return np.packbits(codes.reshape(-1, 8, 32), axis=1, bitorder="little")


def _quarters(codes: np.ndarray) -> np.ndarray:
    """Pack 256 codes of two bits: of each 128, bits 2 k of byte j are those of weight 32 k + j."""
    four = codes.reshape(-1, 2, 4, 32)
    packed: np.ndarray = four[:, :, 0] | four[:, :, 1] << 2 | four[:, :, 2] << 4 | four[:, :, 3] << 6
    return packed


def _scales_of_16(scale: np.ndarray) -> np.ndarray:
    """Pack 16 numbers of 6 bits: nibbles of i and i + 8 first, then the upper bits of every fourth."""
    scale = scale.astype(np.uint8)
    upper = (scale >> 4).reshape(-1, 4, 4)
    tops = upper[:, 0] | upper[:, 1] << 2 | upper[:, 2] << 4 | upper[:, 3] << 6
    return np.concatenate([_halves_of(scale & 15), tops], axis=1)


def _scales_and_minima(whole: np.ndarray) -> np.ndarray:
    """Pack 8 scales and 8 minima of 6 bits: the first four of each keep the upper bits of the last four."""
    scale, least = whole.astype(np.uint8)
    first = scale[:, :4] | scale[:, 4:] >> 4 << 6
    second = least[:, :4] | least[:, 4:] >> 4 << 6
    return np.concatenate([first, second, scale[:, 4:] & 15 | (least[:, 4:] & 15) << 4], axis=1)


def _threes(codes: np.ndarray, width: int) -> np.ndarray:
    """Pack ternary digits, five (or four) to a byte, as the fraction digits / 243 of 256, rounded up."""
    digits = codes.reshape(len(codes), -1, width).astype(np.uint16)
    number = (digits * _THREES[: digits.shape[1], None]).sum(axis=1)
    packed: np.ndarray = ((number * 256 + 242) // 243).astype(np.uint8)
    return packed


class _Reader:
    """Takes fields from the front of blocks, uint8 [blocks, bytes]."""

    def __init__(self, blocks: np.ndarray) -> None:
        self.blocks, self._place = blocks, 0

    def take(self, count: int) -> np.ndarray:
        self._place += count
        return np.ascontiguousarray(self.blocks[:, self._place - count : self._place])

    def half(self) -> np.ndarray:
        return self.take(2).view("<f2")[:, 0].astype(np.float32)

    def nibbles(self, count: int, pieces: int = 1) -> np.ndarray:
        data = self.take(count).reshape(len(self.blocks), pieces, -1)
        return np.concatenate([data & 15, data >> 4], axis=2).reshape(len(data), -1)

    def bits(self, count: int) -> np.ndarray:
        return np.unpackbits(self.take(count), axis=1, bitorder="little")

    def bits_across(self, bits: int) -> np.ndarray:
        data = self.take(32)
        return np.stack([data >> bit & 1 for bit in range(bits)], axis=1).reshape(len(data), -1)

    def quarters(self, count: int) -> np.ndarray:
        data = self.take(count).reshape(len(self.blocks), -1, 32)
        return np.stack([data >> shift & 3 for shift in (0, 2, 4, 6)], axis=2).reshape(len(data), -1)

    def scales_of_16(self) -> np.ndarray:
        data = self.take(12)
        lower = np.concatenate([data[:, :8] & 15, data[:, :8] >> 4], axis=1)
        upper = np.concatenate([data[:, 8:] >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
        whole: np.ndarray = (lower | upper << 4).astype(np.int16) - 32
        return whole

    def scales_and_minima(self) -> np.ndarray:
        data = self.take(12)
        first, second, third = data[:, :4], data[:, 4:8], data[:, 8:]
        scale = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
        least = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
        return np.stack([scale, least])

    def threes(self, count: int, digits: int) -> np.ndarray:
        data = self.take(count)
        powers = np.array([3**k for k in range(digits)], np.uint16)[None, :, None]
        shifted = data[:, None, :] * powers & 255
        digit: np.ndarray = (shifted * 3 >> 8).reshape(len(data), -1)
        return digit
