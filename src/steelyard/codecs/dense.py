"""Plain floats: float32, bfloat16, float16, and float8 with one scale for each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.codecs.base import Parts, Shape, check_parts, matrix, numpy_type
from steelyard.codecs.by_rows import RowCodec
from steelyard.codecs.rows import cast, require_finite
from steelyard.errors import UserError

_DTYPES = ("F32", "BF16", "F16", "F8_E4M3")
_F8_MAX = np.float32(448.0)
_F8_SMALLEST_SCALE = np.float32(2.0**-126)


@dataclass(frozen=True)
class DenseCodec(RowCodec):
    """Every element as a float of `dtype`, rounded half to even.

    Attributes:
        dtype: "F32", "BF16", "F16" or "F8_E4M3".

    Parts: weight, of the tensor's own shape. "F8_E4M3" takes matrices only and adds weight_scale F32 [out, 1],
    max|row| / 448, as compressed-tensors' float-quantized format has it: w = weight * weight_scale.
    """

    dtype: str = "BF16"

    name: ClassVar[str] = "dense"

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise UserError(f"dense dtype is one of {', '.join(_DTYPES)}; not {self.dtype}")

    @property
    def label(self) -> str:
        """Such as "bf16"."""
        return "fp8 row" if self.dtype == "F8_E4M3" else {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}[self.dtype]

    @property
    def row_quantum(self) -> int:
        """Every row stands alone."""
        return 1

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the weight and, for float8, its scales."""
        found: dict[str, tuple[str, tuple[int, ...]]] = {"weight": (self.dtype, tuple(int(axis) for axis in shape))}
        if self.dtype == "F8_E4M3":
            out, _ = matrix(self, shape)
            found["weight_scale"] = ("F32", (out, 1))
        return found

    def encode_rows(self, rows: np.ndarray, name: str = "weight", first_row: int = 0) -> Parts:
        """Cast, or scale and cast.

        Raises:
            UserError: if a value is NaN or infinite, or lies beyond the type.
        """
        require_finite(name, rows, first_row)
        if self.dtype == "F8_E4M3":
            return self._scaled(rows)
        return {"weight": cast(name, rows, numpy_type(self.dtype), first_row)}

    def _scaled(self, rows: np.ndarray) -> Parts:
        out, _ = matrix(self, rows.shape)
        wide = rows.astype(np.float32)
        scale = np.maximum(np.abs(wide).max(axis=1, keepdims=True) / _F8_MAX, _F8_SMALLEST_SCALE)
        scaled = np.clip(wide / scale, -_F8_MAX, _F8_MAX)
        return {"weight": scaled.astype(numpy_type(self.dtype)), "weight_scale": scale.reshape(out, 1)}

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return the elements as float32."""
        check_parts(self, parts, shape)
        weight = parts["weight"].astype(np.float32)
        if "weight_scale" in parts:
            weight *= parts["weight_scale"]
        return weight
