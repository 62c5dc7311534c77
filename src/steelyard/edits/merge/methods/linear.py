"""Weighted averages of parameters."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.edits.merge.registry import merge_method
from steelyard.errors import UserError


class LinearOptions(BaseModel):
    """Options of the weighted average."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    normalize: bool = Field(True, description="divide by the sum of the weights")


class Weighted(BaseModel):
    """What is set for each model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(1.0, allow_inf_nan=False, description="share of this model")


class _Linear(Merge):
    def __init__(self, weights: np.ndarray) -> None:
        self._weights = weights

    def coefficients(self) -> np.ndarray:
        return self._weights

    def combine(self, piece: Piece) -> np.ndarray:
        mean: np.ndarray = self._weights @ piece.values
        return mean


@merge_method(
    name="linear",
    summary="weighted average of the models",
    paper="Wortsman et al. 2022, arXiv 2203.05482",
    options=LinearOptions,
    per_model=Weighted,
    base="none",
    mergekit="linear",
)
def linear(task: Task, options: LinearOptions) -> Merge:
    """Average the models, the base among them if it is listed.

    Raises:
        UserError: if weights to be normalized sum to zero.

    Source: Wortsman et al. 2022, arXiv 2203.05482, the uniform soup where all weights are alike.
    """
    weights = np.array([parameters.weight for parameters in task.parameters], np.float64)
    if options.normalize:
        total = weights.sum()
        if abs(total) < 1e-12:
            raise UserError(f"{task.name}: the weights sum to zero; change one, or set normalize to false")
        weights = weights / total
    return _Linear(weights.astype(np.float32))
