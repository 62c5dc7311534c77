"""Spherical interpolation between two models."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._gram import angular
from steelyard.edits.merge.methods._rows import base_of, only
from steelyard.edits.merge.registry import merge_method

_NEARLY_PARALLEL = 0.9995  # cosine beyond which the arc is taken for a straight line
_SMALLEST_NORM = 1e-8


class SlerpOptions(BaseModel):
    """Options of spherical interpolation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    t: float = Field(0.5, allow_inf_nan=False, description="place on the arc: 0 is the base, 1 the other model")


@merge_method(
    name="slerp",
    summary="on the arc between the base and one other model",
    paper="Shoemake 1985, SIGGRAPH 19(3)",
    options=SlerpOptions,
    base="required",
    most=1,
    mergekit="slerp",
)
def slerp(task: Task, options: SlerpOptions) -> Merge:
    """Interpolate along the great circle through both tensors, taken as vectors.

    Vectors with a cosine beyond 0.9995 on either side, or without length, are interpolated linearly, as mergekit
    does.

    Source: Shoemake 1985, Animating rotation with quaternion curves, equation of Slerp.
    """
    base = base_of(task)
    if not task.experts:
        return only(task, base)
    t = options.t

    def coefficients(gram: np.ndarray) -> np.ndarray:
        norms = np.sqrt(np.diagonal(gram[0]))
        norms = np.where(norms > _SMALLEST_NORM, norms, 1.0)
        cosine = float(np.clip(gram[0, 0, 1] / norms[0] / norms[1], -1, 1))
        if abs(cosine) > _NEARLY_PARALLEL:
            return np.array([[1 - t, t]])
        angle = np.arccos(cosine)
        arc: np.ndarray = np.array([[np.sin((1 - t) * angle), np.sin(t * angle)]]) / np.sin(angle)
        return arc

    return angular(coefficients, [base, task.experts[0]], task.shape)
