"""Model Stock: how far to go from the base towards the mean of a few fine-tuned models."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._gram import angular
from steelyard.edits.merge.methods._rows import base_of, only
from steelyard.edits.merge.registry import merge_method
from steelyard.errors import UserError

_SMALLEST_NORMS = 1e-6
_SINGULAR = 1e-6


class ModelStockOptions(BaseModel):
    """Options of Model Stock."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filter_wise: bool = Field(False, description="a ratio for each row rather than for the tensor")


@merge_method(
    name="model_stock",
    summary="between the base and the experts' mean, nearer the mean the more the experts agree",
    paper="Jang et al. 2024, arXiv 2403.19522",
    options=ModelStockOptions,
    base="required",
    least=2,
    mergekit="model_stock",
)
def model_stock(task: Task, options: ModelStockOptions) -> Merge:
    """Interpolate between the base and the mean of N experts at t = N cos / (1 + (N - 1) cos).

    The cosine is the mean over all pairs of task vectors: the paper's equation has one angle for all, which it
    measures for two. Where the ratio has no bound the base is kept.

    Raises:
        UserError: if there is one expert.

    Source: Jang et al. 2024, arXiv 2403.19522, section 3.2, equation of the interpolation ratio t for N models.
    """
    experts = task.experts
    base = base_of(task)
    if not experts:
        return only(task, base)
    if len(experts) < 2:
        raise UserError(f"{task.name}: model_stock needs two models beside the base; add one")
    count = len(experts)
    above = np.triu_indices(count, 1)

    def coefficients(gram: np.ndarray) -> np.ndarray:
        norms = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
        lengths = np.maximum(norms[:, :, None] * norms[:, None], _SMALLEST_NORMS)
        cosine = np.clip(gram / lengths, -1, 1)[:, above[0], above[1]].mean(axis=1)
        divisor = 1 + (count - 1) * cosine
        singular = np.abs(divisor) < _SINGULAR
        ratio = np.where(singular, 0.0, count * cosine / np.where(singular, 1.0, divisor))
        return np.repeat(ratio[:, None] / count, count, axis=1)

    return angular(coefficients, experts, task.shape, "rows" if options.filter_wise else "tensor", base)
