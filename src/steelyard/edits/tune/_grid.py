"""Codes on a grid in torch: weight = (code - zero) * scale, groups of columns under one scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelyard.codecs import Codec, IntegerCodec, TernaryCodec
from steelyard.codecs.ternary import pack_trits, unpack_trits

MARGIN = 0.25
"""How far from the edges of its cell a weight begins, in steps. Nearer to them the first updates undo much of what
rounding by second moments had gained: measured on the reference model."""

_TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True)
class Grid:
    """How a codec's matrix looks as groups [rows, groups, size]; what is missing in the last group is padding.

    Attributes:
        codec: the codec.
        shape: of the matrix, (out, in).
        low: the least code.
        high: the greatest code.
        rows: of the grouped view: `out`, or 1 where all rows share a scale.
        size: columns of a group.
        scale_type: the type scales are stored in.
    """

    codec: IntegerCodec | TernaryCodec
    shape: tuple[int, int]
    low: int
    high: int
    rows: int
    size: int
    scale_type: torch.dtype

    @classmethod
    def of(cls, codec: Codec, shape: tuple[int, int]) -> Grid:
        """Return the grid of a codec for a matrix.

        Raises:
            TypeError: if the codec is none of those whose codes lie on a grid with groups in rows.
        """
        out, columns = shape
        if isinstance(codec, IntegerCodec):
            low, high = codec.code_range
            size = codec.group_size or columns
            return cls(codec, shape, low, high, out, min(size, columns), _TORCH[codec.scale_dtype])
        if isinstance(codec, TernaryCodec) and codec.rows is None and codec.columns is None:
            return cls(codec, shape, -1, 1, 1, out * columns, _TORCH[codec.scale_dtype])
        if isinstance(codec, TernaryCodec) and codec.rows == 1:
            size = min(codec.columns or columns, columns)
            return cls(codec, shape, -1, 1, out, size, _TORCH[codec.scale_dtype])
        raise TypeError(f"{codec.label} has no grid of groups in rows")

    @property
    def columns(self) -> int:
        """Columns of the grouped view, padding left out."""
        return self.shape[0] * self.shape[1] // self.rows

    @property
    def groups(self) -> int:
        """Groups in a row of the grouped view."""
        return -(-self.columns // self.size)

    @property
    def symmetric(self) -> bool:
        """Whether there are no zero points."""
        return not isinstance(self.codec, IntegerCodec) or self.codec.symmetric

    def fold(self, matrix: Tensor, padding: float = 0.0) -> Tensor:
        """Return a matrix [out, in] as [rows, groups, size]."""
        wide = matrix.reshape(self.rows, self.columns)
        short = self.groups * self.size - self.columns
        if short:
            wide = torch.nn.functional.pad(wide, (0, short), value=padding)
        return wide.reshape(self.rows, self.groups, self.size)

    def unfold(self, grouped: Tensor) -> Tensor:
        """Undo `fold`."""
        return grouped.reshape(self.rows, -1)[:, : self.columns].reshape(self.shape)

    def counts(self) -> Tensor:
        """Return how many weights stand under each scale, float32 [1, groups, 1]."""
        found = torch.full((self.groups,), float(self.size))
        found[-1] = float(self.columns - (self.groups - 1) * self.size)
        return found[None, :, None]

    def stored_scale(self, scale: Tensor) -> Tensor:
        """Return scales as they will be read back: numbers of their type, never 0; their signs are kept."""
        info = torch.finfo(self.scale_type)
        rounded = scale.abs().clamp(info.smallest_normal, info.max).to(self.scale_type).float()
        return torch.copysign(rounded, scale)

    def read(self, parts: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes [rows, groups, size], scales and zero points [rows, groups, 1], all float32."""
        if isinstance(self.codec, IntegerCodec):
            codes, scale, zero = self.codec.to_codes(parts, self.shape)
            zeros = np.zeros_like(scale) if zero is None else zero.astype(np.float32)
        else:
            codes = unpack_trits(parts["weight_packed"], self.shape[1])
            scale = parts["weight_scale"].astype(np.float32)
            zeros = np.zeros_like(scale)
        each = (torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (codes, scale, zeros))
        wide, scales, zero_points = each
        return self.fold(wide), scales[..., None], zero_points[..., None]

    def write(self, codes: Tensor, scale: Tensor, zero: Tensor) -> dict[str, np.ndarray]:
        """Return the parts of codes, scales and zero points as `read` gives them."""
        plain = self.unfold(codes).detach().numpy().astype(np.int8)
        scales = scale[..., 0].detach().numpy()
        if isinstance(self.codec, IntegerCodec):
            zeros = None if self.symmetric else zero[..., 0].detach().numpy().astype(np.int8)
            return self.codec.from_codes(plain, scales, zeros)
        from steelyard.codecs.base import numpy_type

        kind: Any = numpy_type(self.codec.scale_dtype)
        return {"weight_packed": pack_trits(plain), "weight_scale": scales.astype(kind)}


def into_cells(weight: Tensor, codes: Tensor, scale: Tensor, zero: Tensor, margin: float = MARGIN) -> Tensor:
    """Return the weights moved as little as it takes to be rounded to `codes`.

    Training then starts at what is stored, wherever its codes come from, and still knows how near to another code
    each weight of the original lies.

    Args:
        weight: [rows, groups, size], of the original.
        codes: likewise.
        scale: [rows, groups, 1].
        zero: [rows, groups, 1].
        margin: distance kept from the edges of a cell, in steps.
    """
    place = weight / scale + zero
    return ((place.clamp(codes - 0.5 + margin, codes + 0.5 - margin)) - zero) * scale
