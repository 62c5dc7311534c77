"""Integers on a grid whose step differs by row and by column, for what codes them afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.codecs.base import Codec, Parts, Shape, check_parts, matrix
from steelyard.codecs.rows import require_finite
from steelyard.errors import UserError

MIDDLE = 128
"""The exponent of a factor of 1."""

PER_OCTAVE = 8
"""Steps of an exponent that double a factor."""

LARGEST = 127


@dataclass(frozen=True)
class GridCodec(Codec):
    """w = code * scale * 2**((row - 128) / 8) * 2**((column - 128) / 8), code from -127 to 127.

    Alone it is 8 bits a weight. Under `EntropyCodec` a weight takes the bits its code is worth, so the step is
    free: where errors hurt more it is made smaller, row by row and column by column.

    Attributes:
        step: the mean step in units of the root mean square of the matrix; what it costs in bits falls by one with
            each doubling.

    Parts of [out, in]: weight I8 [out, in], row_exponent U8 [out, 1], column_exponent U8 [1, in],
    weight_scale F32 [1, 1].

    Source: entropy-coded scalar quantization, Gish and Pierce 1968; steps by importance are reverse water-filling.
    """

    step: float

    name: ClassVar[str] = "grid"

    def __post_init__(self) -> None:
        if isinstance(self.step, bool) or not isinstance(self.step, int | float) or not 0.01 <= self.step <= 8:
            raise UserError(f"the step of a grid is 0.01 to 8 times the root mean square, not {self.step}")

    @property
    def label(self) -> str:
        """Such as "grid 0.5"."""
        return f"grid {self.step:g}"

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the codes, the exponents and the scale."""
        out, columns = matrix(self, shape)
        return {
            "weight": ("I8", (out, columns)),
            "row_exponent": ("U8", (out, 1)),
            "column_exponent": ("U8", (1, columns)),
            "weight_scale": ("F32", (1, 1)),
        }

    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Round to nearest on one step for all, or a larger one where the largest magnitude needs it."""
        out, columns = matrix(self, weight.shape)
        require_finite(name, weight)
        wide = weight.astype(np.float32)
        scale = max(self.scale_of(wide), float(np.abs(wide).max()) / LARGEST)
        codes = np.clip(np.rint(wide / np.float32(scale)), -LARGEST, LARGEST)
        middle = np.full(max(out, columns), MIDDLE, np.uint8)
        return self.from_codes(codes, middle[:out], middle[:columns], scale)

    def scale_of(self, weight: np.ndarray) -> float:
        """Return the mean step for a matrix, a positive float32."""
        # In units of its largest value, so that squares neither vanish nor overflow.
        largest = float(np.abs(weight).max())
        if largest == 0.0:
            return 1.0
        power = float(np.mean(np.square(weight / np.float32(largest)), dtype=np.float64)) ** 0.5
        return max(float(np.float32(self.step * power * largest)), float(np.finfo(np.float32).tiny))

    def from_codes(self, codes: np.ndarray, rows: np.ndarray, columns: np.ndarray, scale: float) -> Parts:
        """Return the parts of integers [out, in] under exponents of rows [out] and columns [in]."""
        return {
            "weight": np.ascontiguousarray(codes, np.int8),
            "row_exponent": rows.astype(np.uint8).reshape(-1, 1),
            "column_exponent": columns.astype(np.uint8).reshape(1, -1),
            "weight_scale": np.full((1, 1), scale, np.float32),
        }

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return code * step in float32."""
        check_parts(self, parts, shape)
        return self.values(parts["weight"], parts)

    def values(self, codes: np.ndarray, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return what integers [rows, in] stand for under the exponents of those rows."""
        result: np.ndarray = codes * (parts["weight_scale"] * factors(parts["row_exponent"]))
        result *= factors(parts["column_exponent"])
        return result


def factors(exponent: np.ndarray) -> np.ndarray:
    """Return 2**((exponent - 128) / 8) as float32, the same on every machine."""
    eighths = np.exp2(np.arange(PER_OCTAVE) / PER_OCTAVE).astype(np.float32)
    wide = exponent.astype(np.int32) - MIDDLE
    result: np.ndarray = np.ldexp(eighths[wide % PER_OCTAVE], wide // PER_OCTAVE)
    return result


def exponents(factor: np.ndarray) -> np.ndarray:
    """Return the uint8 exponents whose factors are nearest to positive numbers in the logarithm."""
    nearest = np.rint(PER_OCTAVE * np.log2(np.maximum(factor, 2.0**-20))) + MIDDLE
    result: np.ndarray = np.clip(nearest, 0, 255).astype(np.uint8)
    return result
