"""The Karcher mean of models on a sphere."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._gram import angular
from steelyard.edits.merge.methods._rows import only
from steelyard.edits.merge.registry import merge_method


class KarcherOptions(BaseModel):
    """Options of the Karcher mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_iter: int = Field(10, ge=0, description="most steps towards the mean")
    tol: float = Field(1e-5, gt=0, allow_inf_nan=False, description="step and angle (radians) too small to matter")


@merge_method(
    name="karcher",
    summary="the point on the sphere with the least squared angles to all models, at their mean length",
    paper="Karcher 1977, Comm. Pure Appl. Math. 30; arXiv 2603.04972",
    options=KarcherOptions,
    base="none",
    mergekit="karcher",
)
def karcher(task: Task, options: KarcherOptions) -> Merge:
    """Average directions by iterated steps in the tangent space, all models alike and a base like any other.

    Source: Karcher 1977; the fixed-point iteration u <- exp_u(sum_i a_i log_u(u_i)) on the unit sphere.
    """
    models = len(task.models)
    if models == 1:
        return only(task, 0)

    def coefficients(gram: np.ndarray) -> np.ndarray:
        norms = np.sqrt(np.diagonal(gram[0]))
        valid = norms > options.tol
        if not valid.any():
            return np.zeros((1, models))
        to_unit = np.where(valid, 1 / np.where(valid, norms, 1.0), 0.0)
        cosines = gram[0] * to_unit[:, None] * to_unit
        shares = valid / valid.sum()
        point = mean_direction(cosines, shares, options.max_iter, options.tol)
        found: np.ndarray = point * to_unit * norms.mean()
        return found[None]

    return angular(coefficients, range(models), task.shape)


def mean_direction(cosines: np.ndarray, shares: np.ndarray, steps: int, tolerance: float) -> np.ndarray:
    """Return the Karcher mean of unit vectors as coefficients of them.

    Args:
        cosines: float64 [vectors, vectors], their inner products.
        shares: float64 [vectors], weights that sum to 1.
        steps: most iterations.
        tolerance: angles and steps below it are none, in radians.
    """

    def length(point: np.ndarray) -> float:
        return float(np.sqrt(max(point @ cosines @ point, 0.0)))

    point = shares
    if length(point) < tolerance:
        point = np.eye(len(shares))[int(np.argmax(shares > 0))]
    point = point / length(point)
    for _ in range(steps):
        tangent = np.zeros_like(point)
        for index in np.flatnonzero(shares):
            cosine = float(np.clip(cosines[index] @ point, -1, 1))
            angle = float(np.arccos(cosine))
            if angle < tolerance:
                continue
            other = np.zeros_like(point)
            other[index] = 1.0
            tangent += shares[index] * (angle / max(np.sin(angle), 1e-300)) * (other - cosine * point)
        step = length(tangent)
        if step < tolerance:
            break
        point = np.cos(step) * point + np.sin(step) * (tangent / step)
        if length(point) > tolerance:
            point = point / length(point)
    return point
