"""Moving the base towards a model where the two are near."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.edits.merge.methods._rows import base_of, only
from steelyard.edits.merge.registry import merge_method

_SMALLEST_DIFFERENCE = np.float32(1e-6)


class NearswapOptions(BaseModel):
    """Options of nearswap."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    t: float = Field(0.0001, allow_inf_nan=False, description="difference up to which the other model is taken")


class _Nearswap(Merge):
    def __init__(self, base: int, other: int, t: float) -> None:
        self._base, self._other, self._t = base, other, np.float32(t)

    def combine(self, piece: Piece) -> np.ndarray:
        base, other = piece.values[self._base], piece.values[self._other]
        difference = np.maximum(np.abs(base - other), _SMALLEST_DIFFERENCE)
        weight = np.clip(self._t / difference, np.float32(0), np.float32(1))
        merged: np.ndarray = weight * other + (1 - weight) * base
        return merged


@merge_method(
    name="nearswap",
    summary="each weight moves from the base towards the other model by at most t",
    paper="alchemonaut, huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    options=NearswapOptions,
    base="required",
    most=1,
    mergekit="nearswap",
)
def nearswap(task: Task, options: NearswapOptions) -> Merge:
    """Weigh the other model by t / |difference|, at most 1.

    Source: the model card of QuartetAnemoi-70B-t0.0001.
    """
    base = base_of(task)
    if not task.experts:
        return only(task, base)
    return _Nearswap(base, task.experts[0], options.t)
