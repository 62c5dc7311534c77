"""Integers of another codec, losslessly coded to the bits they are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from steelyard.codecs import _entropy_stream as stream
from steelyard.codecs.base import Codec, Parts, Shape, check_parts, matrix
from steelyard.codecs.grid import GridCodec
from steelyard.codecs.integer import IntegerCodec
from steelyard.errors import UserError
from steelyard.weights.dtypes import DTYPES

_CODES = {"integer": "weight_packed", "grid": "weight"}
"""The part of each base that is coded."""


@dataclass(frozen=True)
class EntropyCodec(Codec):
    """w as the base has it, its codes without what is redundant in them.

    Attributes:
        base: integers, or a grid.
        payload: bytes of the coded stream. `fitted` finds how many a matrix takes; null reserves room for codes
            without any structure, which is one byte more than they take in the base.

    Parts of [out, in]: codes U8 [payload, 1], then the parts of the base but its codes. docs/formats/entropy.md has
    the stream. What is left of `payload` after it is zeros.
    """

    base: IntegerCodec | GridCodec
    payload: int | None = None

    name: ClassVar[str] = "entropy"

    def __post_init__(self) -> None:
        if not isinstance(self.base, IntegerCodec | GridCodec):
            raise UserError("the base of an entropy codec is an integer or a grid codec")
        if isinstance(self.base, IntegerCodec) and self.base.bits == 1:
            raise UserError("there is nothing to save in integers of 1 bit")
        if self.payload is not None and (isinstance(self.payload, bool) or self.payload < 1):
            raise UserError(f"payload is a number of bytes above zero, or null; not {self.payload}")

    @property
    def label(self) -> str:
        """Such as "int4 g64 sym entropy"."""
        return f"{self.base.label} entropy"

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the stream, then what else the base stores."""
        matrix(self, shape)
        base = self.base.parts(shape)
        codes = _CODES[self.base.name]
        room = self.payload
        if room is None:
            dtype, size = base[codes]
            room = 1 + DTYPES[dtype].nbytes(size)
        return {"codes": ("U8", (room, 1)), **{key: value for key, value in base.items() if key != codes}}

    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Encode by the base, then code.

        Raises:
            UserError: also if the stream is longer than `payload`.
        """
        return self.code(self.base.encode(weight, name), weight.shape, name)

    def fitted(self, base_parts: Mapping[str, np.ndarray], shape: Shape) -> EntropyCodec:
        """Return the codec whose payload is what an encoded matrix takes."""
        return replace(self, payload=len(self._stream(base_parts, shape)))

    def code(self, base_parts: Mapping[str, np.ndarray], shape: Shape, name: str = "weight") -> Parts:
        """Return the parts for a matrix that the base has encoded."""
        coded = self._stream(base_parts, shape)
        (room, _) = self.parts(shape)["codes"][1]
        if len(coded) > room:
            raise UserError(f"{name} takes {len(coded)} bytes as {self.label}, more than its payload of {room}")
        codes = np.zeros((room, 1), np.uint8)
        codes[: len(coded), 0] = coded
        rest = {key: part for key, part in base_parts.items() if key != _CODES[self.base.name]}
        return {"codes": codes, **rest}

    def _stream(self, base_parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        raw = np.ascontiguousarray(base_parts[_CODES[self.base.name]]).reshape(-1).view(np.uint8)
        return stream.encode(self._levels(base_parts, shape), raw)

    def uncode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> Parts:
        """Return the parts of the base that were coded."""
        check_parts(self, parts, shape)
        key = _CODES[self.base.name]
        rest = {name: part for name, part in parts.items() if name != "codes"}
        raw = stream.raw(parts["codes"].reshape(-1))
        dtype, size = self.base.parts(shape)[key]
        if raw is not None:
            packed = raw.view(np.int32 if dtype == "I32" else np.int8).reshape(size)
            return {name: packed if name == key else rest[name] for name in self.base.parts(shape)}
        levels = stream.decode(parts["codes"].reshape(-1), int(shape[0]), int(shape[1]))
        if isinstance(self.base, GridCodec):
            return {key: levels.astype(np.int8), **rest}
        blank = {key: np.zeros(size, np.int32), **rest}
        _, scale, zero = self.base.to_codes({name: blank[name] for name in self.base.parts(shape)}, shape)
        if zero is not None:
            levels = levels + zero[:, self._groups(int(shape[1]))]
        return self.base.from_codes(levels.astype(np.int8), scale, zero)

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return what the base decodes."""
        return self.base.decode(self.uncode(parts, shape), shape)

    def decode_rows(self, parts: Mapping[str, np.ndarray], shape: Shape, rows: np.ndarray) -> np.ndarray:
        """Return some rows of what `decode` returns, float32 [n, in]; only the runs that hold them are decoded."""
        check_parts(self, parts, shape)
        if not isinstance(self.base, GridCodec) or stream.raw(parts["codes"].reshape(-1)) is not None:
            whole: np.ndarray = self.decode(parts, shape)[rows]
            return whole
        levels = stream.decode(parts["codes"].reshape(-1), int(shape[0]), int(shape[1]), rows)
        return self.base.values(levels[rows], {**parts, "row_exponent": parts["row_exponent"][rows]})

    def _levels(self, base_parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return the codes less their zero points, int16 [out, in]."""
        if isinstance(self.base, GridCodec):
            return base_parts["weight"].astype(np.int16)
        codes, _, zero = self.base.to_codes(base_parts, shape)
        levels = codes.astype(np.int16)
        return levels if zero is None else levels - zero.astype(np.int16)[:, self._groups(int(shape[1]))]

    def _groups(self, columns: int) -> np.ndarray:
        assert isinstance(self.base, IntegerCodec)
        return np.arange(columns) // (self.base.group_size or columns)
