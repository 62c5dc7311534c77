"""The base among the rows of a task, and the merge that is one of its rows."""

from __future__ import annotations

import numpy as np

from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.errors import UserError


def base_of(task: Task) -> int:
    """Return the base's row.

    Raises:
        UserError: if there is none.
    """
    if task.base is None:
        raise UserError(f"{task.name}: this merge needs a base model; name one as base_model")
    return task.base


def only(task: Task, row: int) -> Merge:
    """Return the merge that is one of the models."""
    return _Only(row, len(task.models))


class _Only(Merge):
    def __init__(self, row: int, models: int) -> None:
        self._row, self._models = row, models

    def coefficients(self) -> np.ndarray:
        one = np.zeros(self._models)
        one[self._row] = 1.0
        return one

    def combine(self, piece: Piece) -> np.ndarray:
        chosen: np.ndarray = piece.values[self._row]
        return chosen
