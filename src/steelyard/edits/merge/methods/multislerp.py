"""Barycentric interpolation of any number of models on a sphere."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._gram import angular
from steelyard.edits.merge.methods._rows import only
from steelyard.edits.merge.methods.linear import Weighted
from steelyard.edits.merge.registry import merge_method
from steelyard.errors import UserError


class MultislerpOptions(BaseModel):
    """Options of barycentric spherical interpolation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    normalize_weights: bool = Field(True, description="divide the weights by their sum")
    eps: float = Field(1e-8, gt=0, allow_inf_nan=False, description="length below which a vector is taken for none")


@merge_method(
    name="multislerp",
    summary="weighted mean of the models' directions, taken in the tangent space of a sphere",
    paper="Goddard, goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    options=MultislerpOptions,
    per_model=Weighted,
    mergekit="multislerp",
)
def multislerp(task: Task, options: MultislerpOptions) -> Merge:
    """Average directions by their weights, and lengths by their weights.

    The post projects the models' directions to the tangent space at their normalized weighted mean, averages them
    there with the same weights, and follows the exponential map. That average is zero by the choice of the point,
    so the result is the mean direction at the mean length. With a base, vectors point from the base.

    Raises:
        UserError: if the weights sum to zero and are to be normalized, or directions cancel.

    Source: Goddard, Multi-SLERP, the three steps of the post: project, interpolate, project back.
    """
    experts = task.experts
    if len(experts) == 1:
        return only(task, experts[0])
    weights = np.array([task.parameters[row].weight for row in experts], np.float64)
    if options.normalize_weights:
        if abs(weights.sum()) < 1e-12:
            raise UserError(f"{task.name}: the weights sum to zero; change one, or set normalize_weights to false")
        weights = weights / weights.sum()

    def coefficients(gram: np.ndarray) -> np.ndarray:
        norms = np.sqrt(np.diagonal(gram[0]))
        to_unit = 1 / (norms + options.eps)
        cosines = gram[0] * to_unit[:, None] * to_unit
        length = float(np.sqrt(max(weights @ cosines @ weights, 0.0)))
        if length < options.eps:
            if len(weights) == 2:
                return weights[None]
            raise UserError(f"{task.name}: the weighted directions of the models cancel; change a weight")
        found: np.ndarray = weights / length * to_unit * (norms @ weights)
        return found[None]

    return angular(coefficients, experts, task.shape, origin=task.base)
