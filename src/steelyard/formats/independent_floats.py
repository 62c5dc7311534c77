"""The second reader's part for small floats, tables of values and trits; by specification, as the rest of it.

From the codecs it takes their numbers only, and the tables, which are constants. 4-bit floats are taken from their
bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np

from steelyard.codecs import (
    BlockwiseCodec,
    CodebookCodec,
    Codec,
    Float8Codec,
    MicroscalingCodec,
    Nvfp4Codec,
    PowerCodec,
    TernaryCodec,
)

Layout = list[tuple[str, str, tuple[int, int]]]
"""Name, type and shape of each part, in stored order."""

Rows = Callable[[int, int], np.ndarray]


def layout_of(codec: Codec, shape: tuple[int, int]) -> Layout | None:
    """Return the parts of a codec that this module knows, else None."""
    out, columns = shape
    if isinstance(codec, BlockwiseCodec):
        blocks = math.ceil(out * columns / codec.block)
        found: Layout = [("weight_packed", "U8", (math.ceil(out * columns * codec.bits / 8), 1))]
        own: Layout = [("table", "F32", (1, 2**codec.bits))] if codec.kind == "quantile" else []
        if not codec.double:
            return [*found, ("absmax", "F32", (blocks, 1)), *own]
        nested = [("nested_absmax", "F32", (math.ceil(blocks / 256), 1)), ("nested_offset", "F32", (1, 1))]
        return [*found, ("absmax", "U8", (blocks, 1)), *nested, *own]
    if isinstance(codec, PowerCodec):
        scales = ("weight_scale", codec.scale_dtype, (out, math.ceil(columns / (codec.group_size or columns))))
        packed = ("weight_packed", "I32", (out, math.ceil(columns * codec.bits / 32)))
        return [packed, scales, ("exponent", "F32", (1, 1))]
    if isinstance(codec, CodebookCodec):
        fields = math.ceil(columns / codec.group) * codec.codebooks
        return [
            ("codes", "U8", (out, math.ceil(fields * codec.bits / 8))),
            ("weight_scale", codec.scale_dtype, (out, 1)),
            ("tables", codec.table_dtype, (codec.codebooks * 2**codec.bits, codec.group)),
        ]
    if isinstance(codec, Float8Codec):
        return [("weight", codec.dtype, shape), ("weight_scale", codec.scale_dtype, _blocks(codec, shape))]
    if isinstance(codec, TernaryCodec):
        packed = ("weight_packed", "U8", (out, math.ceil(columns / 5)))
        return [packed, ("weight_scale", codec.scale_dtype, _blocks(codec, shape))]
    if isinstance(codec, MicroscalingCodec):
        scale = ("weight_scale", "U8", (out, math.ceil(columns / codec.group_size)))
        if codec.element == "F4_E2M1":
            return [("weight_packed", "U8", (out, math.ceil(columns / 2))), scale]
        return [("weight", codec.element, shape), scale]
    if isinstance(codec, Nvfp4Codec):
        scales = ("weight_scale", "F8_E4M3", (out, math.ceil(columns / codec.group_size)))
        packed = ("weight_packed", "U8", (out, math.ceil(columns / 2)))
        return [packed, scales, ("weight_global_scale", "F32", (1, 1))]
    return None


def rows_of(codec: Codec, shape: tuple[int, int], parts: Mapping[str, np.ndarray]) -> Rows | None:
    """Return the decoded rows of a codec that this module knows, else None."""
    columns = shape[1]
    if isinstance(codec, BlockwiseCodec):
        return _blockwise(codec, shape, parts)
    if isinstance(codec, CodebookCodec):
        return _codewords(codec, columns, parts)
    if isinstance(codec, PowerCodec):
        return _powers(codec, shape, parts)
    if isinstance(codec, Nvfp4Codec):
        scale = parts["weight_scale"].astype(np.float32) / parts["weight_global_scale"].reshape(())
        return lambda a, b: (
            _fp4(parts["weight_packed"][a:b], columns) * _wide(scale[a:b], codec.group_size, columns)
        )
    if isinstance(codec, MicroscalingCodec):
        power = np.exp2(parts["weight_scale"].astype(np.float64) - 127).astype(np.float32)

        def microscaled(start: int, stop: int) -> np.ndarray:
            if codec.element == "F4_E2M1":
                elements = _fp4(parts["weight_packed"][start:stop], columns)
            else:
                elements = parts["weight"][start:stop].astype(np.float32)
            result: np.ndarray = elements * _wide(power[start:stop], codec.group_size, columns)
            return result

        return microscaled
    if isinstance(codec, Float8Codec | TernaryCodec):

        def scaled(start: int, stop: int) -> np.ndarray:
            if isinstance(codec, Float8Codec):
                values = parts["weight"][start:stop].astype(np.float32)
            else:
                values = _trits(parts["weight_packed"][start:stop], columns)
            lines = np.arange(start, stop) // (codec.rows or shape[0])
            scale = parts["weight_scale"].astype(np.float32)[lines]
            result: np.ndarray = values * _wide(scale, codec.columns or columns, columns)
            return result

        return scaled
    return None


def _blocks(codec: Float8Codec | TernaryCodec, shape: tuple[int, int]) -> tuple[int, int]:
    return math.ceil(shape[0] / (codec.rows or shape[0])), math.ceil(shape[1] / (codec.columns or shape[1]))


def _wide(scale: np.ndarray, group: int, columns: int) -> np.ndarray:
    return scale[:, np.arange(columns) // group]


def _fp4(packed: np.ndarray, columns: int) -> np.ndarray:
    nibbles = (packed[:, np.arange(columns) // 2] >> (4 * (np.arange(columns) % 2)).astype(np.uint8)) & 15
    result: np.ndarray = nibbles.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    return result


def _trits(packed: np.ndarray, columns: int) -> np.ndarray:
    place = np.arange(columns)
    wide = packed[:, place // 5].astype(np.int32)
    return (wide // 3 ** (place % 5) % 3 - 1).astype(np.float32)


def _blockwise(codec: BlockwiseCodec, shape: tuple[int, int], parts: Mapping[str, np.ndarray]) -> Rows:
    columns = shape[1]
    absmax = parts["absmax"].reshape(-1)
    if codec.double:
        nested = parts["nested_absmax"].reshape(-1)[np.arange(len(absmax)) // 256]
        absmax = codec_table("dynamic", 8)[absmax] * nested + parts["nested_offset"].reshape(())
    table = parts["table"].reshape(-1) if "table" in parts else codec_table(codec.kind, codec.bits)
    stream = parts["weight_packed"].reshape(-1)

    def rows(start: int, stop: int) -> np.ndarray:
        first, last = start * columns, stop * columns
        # From the highest bit down: one number from the two bytes that a code may lie in.
        bit = np.arange(first, last, dtype=np.int64) * codec.bits
        byte = bit >> 3
        pair = stream[byte].astype(np.int32) << 8 | stream[np.minimum(byte + 1, len(stream) - 1)]
        code = pair >> (16 - codec.bits - (bit & 7)) & ((1 << codec.bits) - 1)
        values = table[code] * absmax[np.arange(first, last) // codec.block]
        decoded: np.ndarray = values.reshape(stop - start, columns)
        return decoded

    return rows


def _codewords(codec: CodebookCodec, columns: int, parts: Mapping[str, np.ndarray]) -> Rows:
    words, scale = parts["tables"].astype(np.float32), parts["weight_scale"].astype(np.float32)
    fields = math.ceil(columns / codec.group) * codec.codebooks
    powers = 2 ** np.arange(codec.bits)

    def rows(start: int, stop: int) -> np.ndarray:
        bits = np.unpackbits(parts["codes"][start:stop], axis=1, count=fields * codec.bits, bitorder="little")
        codes = (bits.reshape(stop - start, fields, codec.bits) * powers).sum(axis=2)
        codes = codes.reshape(stop - start, -1, codec.codebooks) + np.arange(codec.codebooks) * 2**codec.bits
        values = words[codes[:, :, 0]]
        for index in range(1, codec.codebooks):
            values = values + words[codes[:, :, index]]
        decoded: np.ndarray = values.reshape(stop - start, -1)[:, :columns] * scale[start:stop]
        return decoded

    return rows


def _powers(codec: PowerCodec, shape: tuple[int, int], parts: Mapping[str, np.ndarray]) -> Rows:
    columns, bits = shape[1], codec.bits
    exponent, half = float(parts["exponent"][0, 0]), 1 << (bits - 1)
    values = np.array([math.copysign(abs(n) ** exponent, n) for n in range(-half, half)], np.float32)
    scale = parts["weight_scale"].astype(np.float32)

    def rows(start: int, stop: int) -> np.ndarray:
        held = np.ascontiguousarray(parts["weight_packed"][start:stop]).view(np.uint8)
        stream = np.unpackbits(held, axis=1, bitorder="little")[:, : columns * bits].reshape(-1, columns, bits)
        codes = (stream.astype(np.int32) << np.arange(bits, dtype=np.int32)).sum(axis=2)
        decoded: np.ndarray = values[codes] * _wide(scale[start:stop], codec.group_size or columns, columns)
        return decoded

    return rows


def codec_table(kind: str, bits: int) -> np.ndarray:
    """Return the table of a kind. Tests check it against its definition."""
    from steelyard.codecs import tables

    return tables.table(kind, bits)
