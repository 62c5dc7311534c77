"""The same numbers under another codec: repacking that rounds nothing, found by trying."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from steelyard.codecs import Codec, IntegerCodec, MicroscalingCodec, TernaryCodec, tables
from steelyard.codecs.base import Parts, Shape
from steelyard.codecs.gguf import GgufCodec
from steelyard.codecs.gguf.layouts import FP4_PLACES, Fields
from steelyard.codecs.gguf.types import LEVELS
from steelyard.codecs.ternary import pack_trits, unpack_trits
from steelyard.weights import DTYPES

_SCALES = ("BF16", "F16", "F32")
_INTEGERS = {"Q4_0": 4, "Q5_0": 5, "Q8_0": 8}
_BLOCK = 32


def proposals(codec: Codec, shape: Shape) -> Iterator[Codec]:
    """Yield the codecs that might hold a matrix's numbers as they are, smallest first; `repack` tells whether."""
    if isinstance(codec, IntegerCodec):
        yield from (
            dataclasses.replace(codec, scale_dtype=dtype) for dtype in _SCALES if dtype != codec.scale_dtype
        )
        group = codec.group_size or shape[1]
        if codec.bits > 1 and group % _BLOCK == 0 and shape[1] % _BLOCK == 0:
            yield from (GgufCodec(kind) for kind in _blocks(codec))
    elif isinstance(codec, MicroscalingCodec):
        if codec.element == "F4_E2M1" and codec.group_size == _BLOCK and shape[1] % _BLOCK == 0:
            yield GgufCodec("MXFP4")
    elif isinstance(codec, TernaryCodec):
        if (codec.columns or shape[1]) % 256 == 0 and shape[1] % 256 == 0:
            yield from (GgufCodec("TQ1_0"), GgufCodec("TQ2_0"))
    elif isinstance(codec, GgufCodec):
        if codec.kind in _INTEGERS:
            yield from (
                IntegerCodec(_INTEGERS[codec.kind], _BLOCK, True, dtype) for dtype in ("F16", "BF16", "F32")
            )
        elif codec.kind == "MXFP4":
            yield MicroscalingCodec("F4_E2M1", _BLOCK)
        elif codec.kind in ("TQ1_0", "TQ2_0"):
            yield TernaryCodec(1, 256, "F16")


def repack(codec: Codec, parts: Mapping[str, np.ndarray], shape: Shape, other: Codec) -> Parts | None:
    """Return the parts of the same numbers under another codec; None if it cannot hold them all.

    Args:
        codec: of the parts.
        parts: of a matrix.
        shape: of the matrix.
        other: one of `proposals`.
    """
    if isinstance(codec, GgufCodec):
        found = _from_gguf(codec, parts, shape, other)
    elif isinstance(other, GgufCodec):
        found = _to_gguf(codec, parts, shape, other)
    else:
        assert isinstance(other, IntegerCodec)
        found = _cast(parts, other)
    if found is None:
        return None
    with np.errstate(all="ignore"):
        same = np.array_equal(other.decode(found, shape), codec.decode(parts, shape))
    return found if same else None


def _blocks(codec: IntegerCodec) -> list[str]:
    """Return the types of GGUF whose codes hold those of an integer codec."""
    if codec.symmetric:
        return [kind for kind, bits in _INTEGERS.items() if bits >= codec.bits]
    return [kind for kind, bits in {"Q4_1": 4, "Q5_1": 5}.items() if bits >= codec.bits]


def _cast(parts: Mapping[str, np.ndarray], other: IntegerCodec) -> Parts | None:
    """Return the parts with what is of the scales' type in another one."""
    kind, found = DTYPES[other.scale_dtype].numpy, dict(parts)
    with np.errstate(over="ignore"):
        for name, array in parts.items():
            if array.dtype != np.int32:
                found[name] = array.astype(np.float32).astype(kind)
                if not np.array_equal(found[name].astype(np.float32), array.astype(np.float32)):
                    return None
    return found


def _to_gguf(codec: Codec, parts: Mapping[str, np.ndarray], shape: Shape, other: GgufCodec) -> Parts | None:
    levels = LEVELS[other.kind]
    out, columns = shape
    blocks = columns // other.block
    least = np.zeros((out, blocks), np.float32)
    if isinstance(codec, IntegerCodec):
        width = (codec.group_size or columns) // other.block
        scale = _spread(parts["weight_scale"].astype(np.float32), width, blocks)
        codes, _, zeros = codec.to_codes(parts, shape)
        low = levels.low if codec.symmetric else codec.code_range[0]
        if zeros is not None:
            least = _spread((low - zeros.astype(np.float32)), width, blocks) * scale
        # -128 wraps to the place that Q8_0 leaves to it.
        places = (codes.astype(np.int16) - low).astype(np.uint8)
    elif isinstance(codec, MicroscalingCodec):
        scale = np.ldexp(np.float32(1), parts["weight_scale"].astype(np.int32) - 128)
        places = FP4_PLACES[tables.unpack_low_first(parts["weight_packed"], columns)].astype(np.uint8)
    else:
        assert isinstance(codec, TernaryCodec)
        scale = parts["weight_scale"].astype(np.float32)
        scale = np.repeat(scale, codec.rows or out, axis=0)[:out]
        scale = _spread(scale, (codec.columns or columns) // other.block, blocks)
        places = (unpack_trits(parts["weight_packed"], columns) + 1).astype(np.uint8)
    if not levels.power and max(np.abs(scale).max(initial=0.0), np.abs(least).max(initial=0.0)) > 65504.0:
        return None
    return other.from_fields(Fields(np.stack([scale, least]), np.zeros((2, out, 0), np.int16), places))


def _spread(values: np.ndarray, width: int, blocks: int) -> np.ndarray:
    return np.ascontiguousarray(np.repeat(values, width, axis=1)[:, :blocks])


def _from_gguf(codec: GgufCodec, parts: Mapping[str, np.ndarray], shape: Shape, other: Codec) -> Parts | None:
    fields = codec.to_fields(parts, shape)
    scale = fields.floats[0]
    if isinstance(other, IntegerCodec):
        low = LEVELS[codec.kind].low
        codes = fields.codes.astype(np.int16) + low
        codes[codes > -low] = low - 1  # Q8_0's last place is -128
        # A scale below zero turns the codes; the lowest has no opposite.
        turned = scale < 0
        each = np.repeat(turned, codec.block, axis=1)
        codes = np.where(each, -codes, codes)
        if codes.max(initial=0) > other.code_range[1]:
            return None
        held = other.round_scale(np.abs(scale))
        codes[np.repeat(scale == 0, codec.block, axis=1)] = 0
        return other.from_codes(codes.astype(np.int8), held)
    if isinstance(other, MicroscalingCodec):
        exponent = np.frexp(scale.astype(np.float64))[1] - 1 + 128
        signs = np.array([FP4_PLACES.tolist().index(place) for place in range(15)], np.uint8)
        return {
            "weight_packed": tables.pack_low_first(signs[fields.codes]),
            "weight_scale": exponent.astype(np.uint8),
        }
    assert isinstance(other, TernaryCodec)
    trits = fields.codes.astype(np.int8) - 1
    if trits.max(initial=0) > 1:
        return None
    return {"weight_packed": pack_trits(trits), "weight_scale": scale.astype(np.float16)}
