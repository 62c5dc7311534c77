"""What PV-Tuning and straight-through training need of a codec, and the codecs that have it.

A matrix in discrete training is codes and continuous parameters. Its elements come in units, whose codes change
together: vectors of a codebook, single integers. A codec joins by a class with the members of `Quantized`, a line
in `quantized` and one in `CODECS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from steelyard.codecs import CodebookCodec, Codec, IntegerCodec, TernaryCodec
from steelyard.edits.tune.trainable import Group, Start

if TYPE_CHECKING:
    from torch import Tensor

CODECS: tuple[type[Codec], ...] = (CodebookCodec, IntegerCodec, TernaryCodec)
"""The codecs whose matrices can be trained."""


class Quantized(Protocol):
    """A matrix as codes and continuous parameters.

    Attributes:
        codes: int64 [units, codes of a unit].
    """

    codes: Tensor

    def groups(self) -> Sequence[Group]:
        """Return the continuous parameters, leaves that need gradients."""

    def dequantize(self) -> Tensor:
        """Return the matrix as readers see it, float32 [out, in], differentiable in the continuous parameters."""

    def units(self, matrix: Tensor) -> Tensor:
        """Return a matrix [out, in] as [units, size]; what is missing in a unit is 0."""

    def project(self, target: Tensor, chosen: Tensor) -> Tensor:
        """Return codes that bring some units near a target, no further from it than their codes now.

        Args:
            target: [chosen, size], in the units of the weights.
            chosen: int64 [chosen], the units' numbers.

        Returns:
            [chosen, codes of a unit]: the nearest where a unit has one code, else each chosen in turn.
        """

    def values(self, codes: Tensor, chosen: Tensor) -> Tensor:
        """Return what codes [chosen, codes of a unit] would stand for in some units: [chosen, size]."""

    def tidy(self) -> None:
        """Put continuous parameters right after an optimizer has moved them."""

    def parts(self) -> dict[str, np.ndarray]:
        """Return what is stored; it decodes to `dequantize()` bit for bit."""


def quantized(start: Start) -> Quantized:
    """Return the matrix that training starts with.

    Raises:
        TypeError: if the codec is none of `CODECS`.
    """
    from steelyard.edits.tune import _quantized

    shape = (start.weight.shape[0], start.weight.shape[1])
    if isinstance(start.codec, CodebookCodec):
        return _quantized.QuantizedCodewords(start.codec, start.parts, shape)
    return _quantized.QuantizedGrid(start.codec, start.parts, shape)
