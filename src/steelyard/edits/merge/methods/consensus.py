"""Consensus merging: what only one task, or none, has use for is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge import registry
from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.edits.merge.masks.tall import agreement, tall_mask
from steelyard.edits.merge.methods._rows import base_of
from steelyard.edits.merge.registry import merge_method


class ConsensusOptions(BaseModel):
    """Options of consensus merging."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agree: int = Field(2, ge=0, description="fewest tasks that must keep an entry; 0 leaves nothing out")
    merged: Literal["sum", "ties"] = Field("sum", description="the task vector that is filtered")
    density: float = Field(0.2, gt=0, le=1, description="ties: share of each task vector's entries that is kept")
    scale: float = Field(1.0, allow_inf_nan=False, description="factor of the filtered task vector")


class Masked(BaseModel):
    """What is set for each model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(1.0, allow_inf_nan=False, description="factor of this model's task vector in the sum")
    threshold: float = Field(0.4, ge=0, description="lambda of this task's mask; the larger, the fewer entries")


class _Consensus(Merge):
    def __init__(self, task: Task, options: ConsensusOptions) -> None:
        self._task, self._options = task, options
        self._base = base_of(task)
        self._ties: Merge | None = None
        if options.merged == "ties":
            ties = registry.get("ties")
            parameters = tuple(
                ties.per_model(**({} if row == task.base else {"weight": given.weight, "density": options.density}))
                for row, given in enumerate(task.parameters)
            )
            inner = Task(task.name, task.shape, task.models, task.base, parameters, task.seed)
            self._ties = ties.function(inner, ties.build({"normalize": False}))
            self.grain, self.rounds = self._ties.grain, self._ties.rounds

    def observe(self, round: int, piece: Piece) -> Any:
        assert self._ties is not None
        return self._ties.observe(round, piece)

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        assert self._ties is not None
        self._ties.conclude(round, observed)

    def combine(self, piece: Piece) -> np.ndarray:
        task = self._task
        base = piece.values[self._base].copy()
        vectors = piece.values[list(task.experts)] - base
        given = [task.parameters[row] for row in task.experts]
        if self._ties is None:
            merged: np.ndarray = np.array([each.weight for each in given], np.float32) @ vectors
        else:
            merged = self._ties.combine(piece) - base
        masks = np.stack([tall_mask(v, merged, each.threshold) for v, each in zip(vectors, given, strict=True)])
        merged[agreement(masks) < self._options.agree] = 0
        merged *= np.float32(self._options.scale)
        merged += base
        return merged


@merge_method(
    name="consensus",
    summary="task arithmetic or TIES without the entries that fewer than two tasks have use for",
    paper="Wang et al. 2024, arXiv 2405.07813",
    options=ConsensusOptions,
    per_model=Masked,
    base="required",
)
def consensus(task: Task, options: ConsensusOptions) -> Merge:
    """Leave out of a merged task vector what too few tasks' masks keep.

    Source: Wang et al. 2024, arXiv 2405.07813: `agree` 2 leaves out selfish and catastrophic entries,
    1 the catastrophic alone, 0 is the plain sum. Where ties trims, it does so tensor by tensor; the authors trim
    the whole model at once.
    """
    return _Consensus(task, options)
