"""What training knows of one matrix: where it starts, what a gradient can change, and what is stored in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from steelyard.codecs import Codec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Start:
    """Where the training of one matrix begins.

    Attributes:
        name: of the tensor.
        codec: how it is stored, before and after.
        parts: what is stored of it, by the codec's part names.
        weight: the matrix of the model it was made from, float32 [out, in].
        seed: of everything drawn.
    """

    name: str
    codec: Codec
    parts: Mapping[str, np.ndarray]
    weight: np.ndarray
    seed: int = 0


@dataclass(frozen=True)
class Moment:
    """Where a training run is: the step from 0, and how many steps there are."""

    step: int
    steps: int

    @property
    def share(self) -> float:
        """Share of the run that lies behind, in [0, 1)."""
        return self.step / self.steps


@dataclass(frozen=True)
class Group:
    """Tensors that the optimizer moves at one rate.

    Attributes:
        tensors: by name; leaves that need gradients.
        scale: what a rate of 1 moves an element by in an update, such as a step of the grid; the optimizer has this
            times the rate asked for.
        kind: "weight" or "step", which have rates of their own.
    """

    tensors: Mapping[str, Tensor]
    scale: float
    kind: str = "weight"


class Trainable(Protocol):
    """One matrix in training. The loop calls, at every step and in this order:

    `begin`, `weight` (once, under autograd), backward, `before_update`, the optimizer, `after_update`.
    """

    def begin(self, moment: Moment) -> None:
        """Begin a step."""

    def weight(self) -> Tensor:
        """Return the matrix as readers of the stored bytes would see it, float32 [out, in], differentiable."""

    def groups(self) -> Sequence[Group]:
        """Return what the optimizer moves."""

    def before_update(self, moment: Moment) -> None:
        """Gradients are there; change them, or note what must not move."""

    def after_update(self, moment: Moment) -> None:
        """The optimizer has moved; put things right."""

    def parts(self) -> dict[str, np.ndarray]:
        """Return what is to be stored; it decodes to `weight()` bit for bit."""

    def state(self) -> dict[str, Tensor]:
        """Return everything but the tensors of `groups` that the next step depends on, by name."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""

    def report(self) -> dict[str, float]:
        """Return what is worth telling about the run so far, such as the share of codes that oscillate."""
