"""What a merge method is: how it turns the same tensor of several models into one.

A method sees one tensor at a time, and of that tensor one piece at a time: the engine reads the piece from every
model, widens it to float32 and hands it over, from as many threads as there are processors. A method that must know
something of the whole tensor first, such as the magnitude above which it keeps entries, asks for rounds: in each it
observes every piece, and what it observed is given back to it in the order of the pieces, so that results do not
depend on threads. What draws at random draws by (seed, tensor, model, position of the entry).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

Grain = Literal["entry", "row", "tensor"]
"""What a piece may cut a tensor into: anywhere, between rows (along the first axis), or not at all."""


@dataclass(frozen=True)
class Task:
    """One tensor of the result and the tensors it is made of.

    Attributes:
        name: of the tensor in the result; draws are keyed by it.
        shape: of the tensor and of every input.
        models: labels of the inputs, in the order of the rows of a piece.
        base: the row that is the base model's, None where there is no base.
        parameters: one validated model of the method's `per_model` options for each input, the base's too.
        seed: of everything drawn.
    """

    name: str
    shape: tuple[int, ...]
    models: tuple[str, ...]
    base: int | None
    parameters: tuple[Any, ...]
    seed: int

    @property
    def experts(self) -> tuple[int, ...]:
        """The rows that are not the base's, in order."""
        return tuple(row for row in range(len(self.models)) if row != self.base)


@dataclass(frozen=True)
class Piece:
    """A run of entries of one tensor in every model.

    Attributes:
        start: position of the first entry in the flattened tensor.
        values: float32 [models, entries]; the method may overwrite it.
        columns: entries in a row of the tensor: whole rows lie in a piece where the method asked for it.
    """

    start: int
    values: np.ndarray
    columns: int


class Merge(ABC):
    """A method at work on one tensor.

    Attributes:
        grain: how the tensor may be cut.
        rounds: passes over the tensor before it can be combined.
    """

    grain: Grain = "entry"
    rounds: int = 0

    def observe(self, round: int, piece: Piece) -> Any:
        """Return what must be known of a piece; called from threads, in any order."""
        raise AssertionError(f"{type(self).__name__} has no rounds")

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        """Take in what was observed, in the order of the pieces."""
        raise AssertionError(f"{type(self).__name__} has no rounds")

    def coefficients(self) -> np.ndarray | None:
        """Return the factors of the models, float [models], if the tensor is their weighted sum; None if it is not.

        Asked for after the rounds. The engine then adds up the models as it reads them, which takes no room for
        all of them and is faster than `combine`.
        """
        return None

    @abstractmethod
    def combine(self, piece: Piece) -> np.ndarray:
        """Return the merged entries, float32 [entries]; called from threads, in any order."""


class NoParameters(BaseModel):
    """For methods without options of their own or for each model."""

    model_config = {"frozen": True, "extra": "forbid"}
