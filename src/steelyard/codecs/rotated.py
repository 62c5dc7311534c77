"""Codes of a matrix whose input channels have been scaled and rotated, turned back when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from steelyard.codecs.base import Codec, Parts, Shape, check_parts, matrix, numpy_type
from steelyard.codecs.rows import cast, require_finite
from steelyard.errors import UserError
from steelyard.seeds import generator

_DTYPES = ("F32", "BF16", "F16")


@dataclass(frozen=True)
class RotatedCodec(Codec):
    """w = (base H^T) diag(column_scale), H being in each block Sylvester's Hadamard matrix over sqrt(block).

    Attributes:
        base: codes of w diag(1 / column_scale) H.
        block: columns that are mixed, a power of two; the last block may be shorter, and is then left as it is.
        dtype: of the scales: "F32", "BF16" or "F16".

    Parts of [out, in]: those of `base`; column_scale [1, in], none of them 0. Their signs are random, which makes
    of H a random rotation.

    Source: Xu et al. 2025, MambaQuant, arXiv 2501.13484, section 4.3, smooth-fused rotation; Ashkboos et al.
        2024, QuaRot, arXiv 2404.00456. There the inputs are scaled and rotated while the model runs; here the
        weights are turned back when they are read, which is the same product.
    """

    base: Codec
    block: int = 64
    dtype: str = "BF16"

    name: ClassVar[str] = "rotated"

    def __post_init__(self) -> None:
        if not isinstance(self.base, Codec) or isinstance(self.base, RotatedCodec):
            raise UserError("the base of a rotated codec is another codec")
        whole = isinstance(self.block, int) and not isinstance(self.block, bool)
        if not whole or self.block < 2 or self.block & (self.block - 1) or self.block > 4096:
            raise UserError(f"block is a power of two from 2 to 4096, not {self.block}")
        if self.dtype not in _DTYPES:
            raise UserError(f"dtype of column scales is one of {', '.join(_DTYPES)}; not {self.dtype}")

    @property
    def label(self) -> str:
        """Such as "int3 g64 sym rotated 64"; scales other than bfloat16 are named."""
        kind = "" if self.dtype == "BF16" else f" {self.dtype.lower()}"
        return f"{self.base.label} rotated {self.block}{kind}"

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the parts of the base and the scales."""
        _, columns = matrix(self, shape)
        return {**self.base.parts(shape), "column_scale": (self.dtype, (1, columns))}

    def signs(self, columns: int) -> np.ndarray:
        """Return the random signs of channels, float32 [in] of +1 and -1."""
        drawn: np.ndarray = generator(0, f"rotated.{columns}").choice(np.array([-1.0, 1.0], np.float32), columns)
        return drawn

    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Rotate without scaling: by random signs and H."""
        _, columns = matrix(self, weight.shape)
        require_finite(name, weight)
        scale = self.stored(self.signs(columns), name)
        return {**self.base.encode(self.turned(weight, scale), name), "column_scale": scale}

    def stored(self, scale: np.ndarray, name: str = "weight") -> np.ndarray:
        """Return scales [in] as they are stored."""
        return cast(f"column scales of {name}", scale.astype(np.float32).reshape(1, -1), numpy_type(self.dtype))

    def turned(self, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return w diag(1 / scale) H, float32: what the base codes."""
        return self.rotate(weight.astype(np.float32) / scale.astype(np.float32).reshape(-1))

    def rotate(self, rows: np.ndarray) -> np.ndarray:
        """Return rows [..., in] times H, which is its own transpose, in their type."""
        whole = rows.shape[-1] // self.block * self.block
        turned = np.array(rows)
        blocks = turned[..., :whole].reshape(*rows.shape[:-1], -1, self.block)
        mixed = blocks @ sylvester(self.block).astype(rows.dtype)
        turned[..., :whole] = mixed.reshape(*rows.shape[:-1], whole)
        return turned

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return the base's matrix turned back, float32."""
        check_parts(self, parts, shape)
        base = self.base.decode({key: parts[key] for key in self.base.parts(shape)}, shape)
        weight: np.ndarray = self.rotate(base) * parts["column_scale"].astype(np.float32)
        return weight


@lru_cache(maxsize=8)
def sylvester(size: int) -> np.ndarray:
    """Return Sylvester's Hadamard matrix over the root of its size, a power of two; float64, symmetric."""
    found = np.ones((1, 1))
    while len(found) < size:
        found = np.block([[found, found], [found, -found]])
    scaled: np.ndarray = found / np.sqrt(size)
    return scaled
