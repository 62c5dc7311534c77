"""What one tensor of a model takes on disk: its numbers, and what has to lie beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

PartKind = Literal["weights", "scales", "zero_points", "overhead"]


@dataclass(frozen=True, slots=True)
class Holding:
    """A tensor of the model and the stored tensors that stand for it.

    Attributes:
        name: of the model's tensor.
        shape: of the model's tensor, whatever it is packed into.
        encoding: how its numbers are stored: "BF16", "int4 g128", "nf4", "Q4_K".
        stored: names of the stored tensors.
        weights: bytes of the numbers or codes themselves.
        scales: bytes of scales, of all levels.
        zero_points: bytes of zero points.
        overhead: bytes of everything else that is needed to read it: indices, shapes, code books.
        plain: whether the numbers are stored as themselves, in a float type of 16 bits or more.
    """

    name: str
    shape: tuple[int, ...]
    encoding: str
    stored: tuple[str, ...]
    weights: int
    scales: int = 0
    zero_points: int = 0
    overhead: int = 0
    plain: bool = True

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that stands for it."""
        return self.weights + self.scales + self.zero_points + self.overhead

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each element, scales and everything else included."""
        return 8 * self.nbytes / max(1, self.elements)
