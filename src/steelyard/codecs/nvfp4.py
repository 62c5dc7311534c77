"""NVFP4: 4-bit floats under an 8-bit float for each group of 16, and one float32 for the tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np

from steelyard.codecs import tables
from steelyard.codecs.base import Codec, Parts, Shape, check_parts, matrix
from steelyard.codecs.rows import require_finite
from steelyard.errors import UserError

_LARGEST_ELEMENT, _LARGEST_SCALE = np.float32(6), np.float32(448)


@dataclass(frozen=True)
class Nvfp4Codec(Codec):
    """w = element * (scale / global_scale), elements of 4 bits (sign, two of exponent, one of fraction).

    Attributes:
        group_size: columns under one scale, 16 in what engines run. Where it does not divide the columns the last
            group is shorter.

    Parts of [out, in]: weight_packed U8 [out, ceil(in/2)], the first of each pair in the low half; weight_scale
    F8_E4M3 [out, groups]; weight_global_scale F32 [1, 1].

    Source: compressed-tensors, nvfp4-pack-quantized; NVIDIA 2025, Pretraining LLMs with NVFP4, section 2.
    """

    group_size: int = 16

    name: ClassVar[str] = "nvfp4"

    def __post_init__(self) -> None:
        if isinstance(self.group_size, bool) or self.group_size not in range(8, 257):
            raise UserError(f"group_size is 8 to 256, not {self.group_size}")

    @property
    def label(self) -> str:
        """Such as "nvfp4 g16"."""
        return f"nvfp4 g{self.group_size}"

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the elements, the scales and the scale of the scales."""
        out, columns = matrix(self, shape)
        return {
            "weight_packed": ("U8", (out, -(-columns // 2))),
            "weight_scale": ("F8_E4M3", (out, -(-columns // self.group_size))),
            "weight_global_scale": ("F32", (1, 1)),
        }

    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Scale each group so that its largest magnitude is 6 or 4, whichever loses less, and take the nearest."""
        _, columns = matrix(self, weight.shape)
        require_finite(name, weight)
        wide = np.ascontiguousarray(weight, np.float32)
        starts = np.arange(0, columns, self.group_size)
        absmax = np.maximum.reduceat(np.abs(wide), starts, axis=1)
        largest = absmax.max()
        whole = _LARGEST_ELEMENT * _LARGEST_SCALE / largest if largest > 0 else np.float32(1)
        stored = np.full((1, 1), min(whole, np.float32(np.finfo(np.float32).max)), np.float32)
        tried = []
        for end in (np.float32(6), np.float32(4)):
            scale = np.minimum(absmax * stored / end, _LARGEST_SCALE).astype(ml_dtypes.float8_e4m3fn)
            factor = scale.astype(np.float32) / stored
            codes = tables.encode(wide, factor, self.group_size, tables.e2m1())
            decoded = tables.decode(codes, factor, self.group_size, tables.e2m1())
            unit = largest if largest > 0 else np.float32(1)
            lost = np.add.reduceat(np.square((decoded - wide) / unit), starts, axis=1)
            tried.append((scale, codes, lost))
        better = tried[1][2] < tried[0][2]
        scale = np.where(better, tried[1][0], tried[0][0])
        codes = np.where(np.repeat(better, self.group_size, axis=1)[:, :columns], tried[1][1], tried[0][1])
        return {
            "weight_packed": tables.pack_low_first(codes),
            "weight_scale": scale,
            "weight_global_scale": stored,
        }

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return element * (scale / global_scale)."""
        check_parts(self, parts, shape)
        _, columns = matrix(self, shape)
        factor = parts["weight_scale"].astype(np.float32) / parts["weight_global_scale"]
        codes = tables.unpack_low_first(parts["weight_packed"], columns)
        return tables.decode(codes, factor, self.group_size, tables.e2m1())
