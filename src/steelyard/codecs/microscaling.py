"""Microscaling formats: small floats under a power of two for each group of a row (MXFP4, MXFP8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.codecs import tables
from steelyard.codecs.base import Parts, Shape, check_parts, matrix, numpy_type
from steelyard.codecs.by_rows import RowCodec
from steelyard.codecs.rows import require_finite
from steelyard.errors import UserError

# Largest value and exponent of the largest power of two of each element type.
_ELEMENTS = {"F4_E2M1": (6.0, 2), "F8_E4M3": (448.0, 8), "F8_E5M2": (57344.0, 15)}
_BIAS = 127


@dataclass(frozen=True)
class MicroscalingCodec(RowCodec):
    """w = element * 2**(scale - 127), one scale for each group of a row.

    Attributes:
        element: "F4_E2M1" (MXFP4), "F8_E4M3" or "F8_E5M2" (MXFP8).
        group_size: columns under one scale, 32 in the standard. Where it does not divide the columns the last
            group is shorter.

    Parts of [out, in]: for F4_E2M1 weight_packed U8 [out, ceil(in/2)], the first of each pair in the low half, else
    weight [out, in]; weight_scale U8 [out, groups], the exponent with a bias of 127.

    Source: Open Compute Project 2023, Microscaling formats (MX) specification 1.0. Its scale cuts off what lies
    above the largest element; here the next power is taken where that loses less.
    """

    element: str = "F4_E2M1"
    group_size: int = 32

    name: ClassVar[str] = "microscaling"

    def __post_init__(self) -> None:
        if self.element not in _ELEMENTS:
            raise UserError(f"element is one of {', '.join(_ELEMENTS)}; not {self.element}")
        if isinstance(self.group_size, bool) or self.group_size not in range(8, 257):
            raise UserError(f"group_size is 8 to 256, not {self.group_size}")

    @property
    def label(self) -> str:
        """Such as "mxfp4 g32"."""
        kind = {"F4_E2M1": "mxfp4", "F8_E4M3": "mxfp8", "F8_E5M2": "mxfp8 e5m2"}[self.element]
        return f"{kind} g{self.group_size}"

    @property
    def row_quantum(self) -> int:
        """Every row stands alone."""
        return 1

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the elements and the exponents."""
        out, columns = matrix(self, shape)
        scales = ("U8", (out, -(-columns // self.group_size)))
        if self.element == "F4_E2M1":
            return {"weight_packed": ("U8", (out, -(-columns // 2))), "weight_scale": scales}
        return {"weight": (self.element, (out, columns)), "weight_scale": scales}

    def encode_rows(self, rows: np.ndarray, name: str = "weight", first_row: int = 0) -> Parts:
        """Take the power of two that loses less, and the nearest elements under it."""
        require_finite(name, rows, first_row)
        wide = rows.astype(np.float32)
        out, columns = wide.shape
        groups = -(-columns // self.group_size)
        padded = np.zeros((out, groups * self.group_size), np.float32)
        padded[:, :columns] = wide
        grouped = padded.reshape(out, groups, self.group_size)
        largest = np.abs(grouped).max(axis=2)
        low = np.where(largest > 0, np.frexp(largest)[1] - 1 - _ELEMENTS[self.element][1], 0)
        low = np.clip(low, -_BIAS, _BIAS)
        high = np.minimum(low + 1, _BIAS)
        lost = [self._lost(grouped, chosen, power(low + _BIAS)) for chosen in (low, high)]
        scale = np.where(lost[1] < lost[0], high, low)
        codes = self._elements(wide, scale)
        stored = (scale + _BIAS).astype(np.uint8)
        if self.element == "F4_E2M1":
            return {"weight_packed": tables.pack_low_first(codes), "weight_scale": stored}
        return {"weight": codes, "weight_scale": stored}

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return element * 2**(scale - 127)."""
        check_parts(self, parts, shape)
        _, columns = matrix(self, shape)
        scale = power(parts["weight_scale"])
        if self.element == "F4_E2M1":
            codes = tables.unpack_low_first(parts["weight_packed"], columns)
            return tables.decode(codes, scale, self.group_size, tables.e2m1())
        each = np.repeat(scale, self.group_size, axis=1)[:, :columns]
        result: np.ndarray = parts["weight"].astype(np.float32) * each
        return result

    def _elements(self, wide: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return the codes of 4-bit floats, or 8-bit floats, of rows under exponents without bias."""
        factor = power(scale + _BIAS)
        if self.element == "F4_E2M1":
            return tables.encode(wide, factor, self.group_size, tables.e2m1())
        largest = np.float32(_ELEMENTS[self.element][0])
        each = np.repeat(factor, self.group_size, axis=1)[:, : wide.shape[1]]
        result: np.ndarray = np.clip(wide / each, -largest, largest).astype(numpy_type(self.element))
        return result

    def _lost(self, grouped: np.ndarray, exponent: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """Return the squares lost by each group, in units in which they neither vanish nor overflow."""
        flat = grouped.reshape(len(grouped), -1)
        codes, factor = self._elements(flat, exponent), power(exponent + _BIAS)
        if self.element == "F4_E2M1":
            decoded = tables.decode(codes, factor, self.group_size, tables.e2m1())
        else:
            decoded = codes.astype(np.float32) * np.repeat(factor, self.group_size, axis=1)
        lost: np.ndarray = np.square((decoded - flat).reshape(grouped.shape) / unit[:, :, None]).sum(axis=2)
        return lost


def power(stored: np.ndarray) -> np.ndarray:
    """Return 2**(stored - 127) as float32; 255 stands for NaN."""
    wide = np.ldexp(np.float32(1), stored.astype(np.int32) - _BIAS)
    return np.where(stored == 255, np.float32(np.nan), wide).astype(np.float32)
