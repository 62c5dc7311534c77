"""Integers plus a low-rank correction of what they lose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.codecs.base import Codec, Parts, Shape, check_parts
from steelyard.codecs.integer import IntegerCodec
from steelyard.codecs.low_rank import LowRankCodec
from steelyard.errors import UserError


@dataclass(frozen=True)
class SumCodec(Codec):
    """w = base + correction, the correction made for what the base leaves.

    Attributes:
        base: the integers.
        correction: the low-rank product.

    Parts: those of both; their names differ.

    Source: Yao et al., "ZeroQuant-V2", 2023 (low-rank compensation).
    """

    base: IntegerCodec
    correction: LowRankCodec

    name: ClassVar[str] = "sum"

    def __post_init__(self) -> None:
        if not isinstance(self.base, IntegerCodec) or not isinstance(self.correction, LowRankCodec):
            raise UserError("a sum is an integer codec (base) plus a low_rank codec (correction)")

    @property
    def label(self) -> str:
        """Such as "int3 g64 asym + rank 16"."""
        return f"{self.base.label} + {self.correction.label}"

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the parts of the base, then those of the correction."""
        return {**self.base.parts(shape), **self.correction.parts(shape)}

    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Encode the base, then the residual."""
        return self.correct(weight, self.base.encode(weight, name), name=name)

    def correct(
        self,
        weight: np.ndarray,
        base_parts: Mapping[str, np.ndarray],
        second_moment: np.ndarray | None = None,
        name: str = "weight",
    ) -> Parts:
        """Add to an encoded base the correction that is best under `second_moment` (see `LowRankCodec.factor`)."""
        residual = weight.astype(np.float32) - self.base.decode(base_parts, weight.shape)
        return {**base_parts, **self.correction.factor(residual, second_moment, name)}

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return base + correction as float32."""
        check_parts(self, parts, shape)
        base = {key: parts[key] for key in self.base.parts(shape)}
        correction = {key: parts[key] for key in self.correction.parts(shape)}
        total: np.ndarray = self.base.decode(base, shape) + self.correction.decode(correction, shape)
        return total
