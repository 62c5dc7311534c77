"""Ternary weights, five to a byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.codecs.base import Parts, Shape, check_parts, float_limits, matrix, numpy_type
from steelyard.codecs.blocks import block_counts, block_label, check_block, spread
from steelyard.codecs.by_rows import RowCodec
from steelyard.codecs.rows import require_finite
from steelyard.errors import UserError

_SCALES = ("BF16", "F16", "F32")
_PLACES = np.array([1, 3, 9, 27, 81], np.uint8)


@dataclass(frozen=True)
class TernaryCodec(RowCodec):
    """w = trit * scale with trits of -1, 0 and 1, one scale for each block: 1.6 bits and the scales.

    Attributes:
        rows: of a block; None for all.
        columns: of a block; None for all. (None, None) is one scale for the tensor, as in TriLM and BitNet b1.58.
        scale_dtype: "BF16", "F16" or "F32".

    Parts of [out, in]: weight_packed U8 [out, ceil(in/5)], the number sum (trit_i + 1) 3**i of five columns, what
    is missing in the last counted as trits of -1; weight_scale [ceil(out/rows), ceil(in/columns)].

    Source: Kaushal et al. 2024, Spectra; Ma et al. 2024, The era of 1-bit LLMs.
    """

    rows: int | None = 1
    columns: int | None = None
    scale_dtype: str = "BF16"

    name: ClassVar[str] = "ternary"

    def __post_init__(self) -> None:
        if self.scale_dtype not in _SCALES:
            raise UserError(f"scale_dtype is one of {', '.join(_SCALES)}; not {self.scale_dtype}")
        check_block(self.rows, self.columns)

    @property
    def label(self) -> str:
        """Such as "ternary row"; scales other than bfloat16 are named."""
        block = block_label(self.rows, self.columns)
        return f"ternary {block}" + ("" if self.scale_dtype == "BF16" else f" {self.scale_dtype.lower()}")

    @property
    def row_quantum(self) -> int | None:
        """The rows of a block; None where all share a scale."""
        return self.rows

    def part_row(self, part: str, row: int) -> int:
        """Return where in `part` the rows from `row` begin."""
        return row // (self.rows or 1) if part == "weight_scale" else row

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the packed trits and the scales."""
        out, columns = matrix(self, shape)
        scales = block_counts((out, columns), self.rows, self.columns)
        return {"weight_packed": ("U8", (out, -(-columns // 5))), "weight_scale": (self.scale_dtype, scales)}

    def encode_rows(self, rows: np.ndarray, name: str = "weight", first_row: int = 0) -> Parts:
        """Take the scale and the trits of each block that lose the least squares."""
        out, columns = matrix(self, rows.shape)
        require_finite(name, rows, first_row)
        wide = rows.astype(np.float32)
        down, across = block_counts((out, columns), self.rows, self.columns)
        best = np.empty((down, across), np.float32)
        height, width = self.rows or out, self.columns or columns
        for i in range(down):
            for j in range(across):
                best[i, j] = best_scale(wide[i * height : (i + 1) * height, j * width : (j + 1) * width])
        scale = self.representable(best)
        each = spread(scale.astype(np.float32), wide.shape, self.rows, self.columns)
        trits = (np.abs(wide) > each / 2) * np.sign(wide)
        return {"weight_packed": pack_trits(trits.astype(np.int8)), "weight_scale": scale}

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return trit * scale in float32."""
        check_parts(self, parts, shape)
        out, columns = matrix(self, shape)
        trits = unpack_trits(parts["weight_packed"], columns).astype(np.float32)
        result: np.ndarray = trits * spread(
            parts["weight_scale"].astype(np.float32), (out, columns), self.rows, self.columns
        )
        return result

    def representable(self, scale: np.ndarray) -> np.ndarray:
        """Return scales in the stored type, above 0."""
        kind = numpy_type(self.scale_dtype)
        result: np.ndarray = np.clip(scale, *float_limits(self.scale_dtype)).astype(kind)
        return result


def best_scale(block: np.ndarray) -> float:
    """Return the scale s that minimises sum (w - s t)^2 over s and trits t.

    With the k largest magnitudes kept the best s is their mean and the gain k s^2, so trying every k is exact.
    """
    magnitudes = np.sort(np.abs(block), axis=None)[::-1].astype(np.float64)
    sums = np.cumsum(magnitudes)
    counts = np.arange(1, len(sums) + 1)
    best = int(np.argmax(sums * (sums / counts)))
    return float(sums[best] / counts[best])


def pack_trits(trits: np.ndarray) -> np.ndarray:
    """Return five trits of a row in each byte, the first counting least: uint8 [rows, ceil(columns / 5)]."""
    padded = np.zeros((trits.shape[0], -(-trits.shape[1] // 5) * 5), np.uint8)
    padded[:, : trits.shape[1]] = trits + 1
    return np.ascontiguousarray((padded.reshape(len(trits), -1, 5) * _PLACES).sum(axis=2, dtype=np.uint8))


def unpack_trits(packed: np.ndarray, columns: int) -> np.ndarray:
    """Undo `pack_trits`: int8 [rows, columns]."""
    each = (packed[:, :, None] // _PLACES % 3).astype(np.int8) - 1
    return np.ascontiguousarray(each.reshape(packed.shape[0], -1)[:, :columns])
