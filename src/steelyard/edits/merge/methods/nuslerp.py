"""Spherical interpolation between two models by weights, around a base, by rows or columns."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._gram import Vectors, angular
from steelyard.edits.merge.methods._rows import only
from steelyard.edits.merge.methods.linear import Weighted
from steelyard.edits.merge.registry import merge_method

_SMALLEST_NORM = 1e-7
_SMALLEST_SINE = 1e-8


class NuslerpOptions(BaseModel):
    """Options of spherical interpolation by weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nuslerp_flatten: bool = Field(True, description="take the tensor for one vector")
    nuslerp_row_wise: bool = Field(
        False,
        description="if not flattened, what is interpolated: the vectors along the first axis, or along the last",
    )


@merge_method(
    name="nuslerp",
    summary="on the arc between two models, in the proportion of their weights, seen from a base if there is one",
    paper="Shoemake 1985, SIGGRAPH 19(3)",
    options=NuslerpOptions,
    per_model=Weighted,
    least=2,
    most=2,
    mergekit="nuslerp",
)
def nuslerp(task: Task, options: NuslerpOptions) -> Merge:
    """Interpolate along the great circle through two tensors, or through each pair of their rows or columns.

    Source: Shoemake 1985, equation of Slerp, at t = w_2 / (w_1 + w_2); what each switch takes for a vector is
    mergekit's.
    """
    experts = task.experts
    if len(experts) == 1:
        return only(task, experts[0])
    first, second = (task.parameters[row].weight for row in experts)
    t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)

    def coefficients(gram: np.ndarray) -> np.ndarray:
        norms = np.maximum(np.sqrt(np.diagonal(gram, axis1=1, axis2=2)), _SMALLEST_NORM)
        cosine = np.clip(gram[:, 0, 1] / norms[:, 0] / norms[:, 1], -1, 1)
        straight = 1 - cosine**2 <= _SMALLEST_SINE**2
        angle = np.arccos(np.where(straight, 0.0, cosine))
        arc = np.stack([np.sin((1 - t) * angle), np.sin(t * angle)], axis=1) / np.sin(angle)[:, None]
        found: np.ndarray = np.where(straight[:, None], np.array([1 - t, t]), arc)
        return found

    apart: Vectors = "columns" if options.nuslerp_row_wise else "rows"
    vectors = "tensor" if options.nuslerp_flatten else apart
    return angular(coefficients, experts, task.shape, vectors, task.base)
