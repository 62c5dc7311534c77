"""One model's tensors as they are."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.edits.merge.registry import merge_method
from steelyard.errors import UserError


class Scaled(BaseModel):
    """What is set for the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float | None = Field(None, allow_inf_nan=False, description="factor; none leaves every bit")


class _Passthrough(Merge):
    def __init__(self, scale: float | None) -> None:
        self._scale = scale

    def coefficients(self) -> np.ndarray:
        return np.array([1.0 if self._scale is None else self._scale])

    def combine(self, piece: Piece) -> np.ndarray:
        values: np.ndarray = piece.values[0]
        if self._scale is not None:
            values = values * np.float32(self._scale)
        return values


@merge_method(
    name="passthrough",
    summary="the tensors of one model, scaled if so wished: for stacking layers",
    per_model=Scaled,
    base="none",
    most=1,
    mergekit="passthrough",
)
def passthrough(task: Task, options: BaseModel) -> Merge:
    """Copy a tensor.

    Raises:
        UserError: if there are two models.
    """
    if len(task.models) != 1:
        names = ", ".join(task.models)
        raise UserError(f"{task.name}: passthrough takes one model, not {len(task.models)} ({names}); keep one")
    return _Passthrough(task.parameters[0].scale)
