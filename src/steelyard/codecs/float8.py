"""8-bit floats under scales of a tensor, a row, or a block of rows and columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.codecs.base import Parts, Shape, check_parts, float_limits, matrix, numpy_type
from steelyard.codecs.blocks import block_absmax, block_counts, block_label, check_block, spread
from steelyard.codecs.by_rows import RowCodec
from steelyard.codecs.rows import require_finite
from steelyard.errors import UserError

_LARGEST = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}
_SCALES = ("F32", "BF16", "F16", "F8_E8M0")


@dataclass(frozen=True)
class Float8Codec(RowCodec):
    """w = weight * scale, weight an 8-bit float, one scale for each block.

    Attributes:
        dtype: "F8_E4M3" (largest 448) or "F8_E5M2" (largest 57344).
        rows: of a block; None for all.
        columns: of a block; None for all. (1, None) is one scale a row, (None, None) one for the tensor,
            (128, 128) the blocks of DeepSeek-V3.
        scale_dtype: "F32", "BF16", "F16", or "F8_E8M0" for powers of two.

    Parts of [out, in]: weight [out, in], weight_scale [ceil(out/rows), ceil(in/columns)].

    Source: Micikevicius et al. 2022, FP8 formats for deep learning; DeepSeek-AI 2024, DeepSeek-V3, section 3.3.
    """

    dtype: str = "F8_E4M3"
    rows: int | None = 1
    columns: int | None = None
    scale_dtype: str = "F32"

    name: ClassVar[str] = "float8"

    def __post_init__(self) -> None:
        if self.dtype not in _LARGEST:
            raise UserError(f"float8 dtype is one of {', '.join(_LARGEST)}; not {self.dtype}")
        if self.scale_dtype not in _SCALES:
            raise UserError(f"scale_dtype is one of {', '.join(_SCALES)}; not {self.scale_dtype}")
        check_block(self.rows, self.columns)

    @property
    def label(self) -> str:
        """Such as "e4m3 128x128"; scales other than float32 are named."""
        block = block_label(self.rows, self.columns)
        scale = "" if self.scale_dtype == "F32" else f" {self.scale_dtype.lower().removeprefix('f8_')}"
        return f"{self.dtype.lower().removeprefix('f8_')} {block}{scale}"

    @property
    def row_quantum(self) -> int | None:
        """The rows of a block; None where all share a scale."""
        return self.rows

    def part_row(self, part: str, row: int) -> int:
        """Return where in `part` the rows from `row` begin."""
        return row // (self.rows or 1) if part == "weight_scale" else row

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the weight and its scales."""
        out, columns = matrix(self, shape)
        scales = block_counts((out, columns), self.rows, self.columns)
        return {"weight": (self.dtype, (out, columns)), "weight_scale": (self.scale_dtype, scales)}

    def encode_rows(self, rows: np.ndarray, name: str = "weight", first_row: int = 0) -> Parts:
        """Scale each block so that its largest magnitude is the type's, and round half to even."""
        matrix(self, rows.shape)
        require_finite(name, rows, first_row)
        wide = rows.astype(np.float32)
        largest = np.float32(_LARGEST[self.dtype])
        scale = self._scale(block_absmax(wide, self.rows, self.columns) / largest)
        each = spread(scale.astype(np.float32), wide.shape, self.rows, self.columns)
        scaled = np.clip(wide / each, -largest, largest)
        return {"weight": scaled.astype(numpy_type(self.dtype)), "weight_scale": scale}

    def _scale(self, wanted: np.ndarray) -> np.ndarray:
        """Return scales as they are stored, above 0; powers of two are rounded up, so that nothing is cut off."""
        kind = numpy_type(self.scale_dtype)
        if self.scale_dtype == "F8_E8M0":
            fraction, exponent = np.frexp(np.maximum(wanted, np.float32(2.0**-126)))
            result: np.ndarray = np.ldexp(np.float32(1), exponent - (fraction == 0.5)).astype(kind)
            return result
        smallest, _ = float_limits(self.scale_dtype)
        stored: np.ndarray = np.maximum(wanted, smallest).astype(kind)
        return stored

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return weight * scale in float32."""
        check_parts(self, parts, shape)
        out, columns = matrix(self, shape)
        weight = parts["weight"].astype(np.float32)
        weight *= spread(parts["weight_scale"].astype(np.float32), (out, columns), self.rows, self.columns)
        return weight
