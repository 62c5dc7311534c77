"""PCB-Merging: parameters compete, those that matter within a task and agree across tasks are merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.edits.merge.methods._rows import base_of, only
from steelyard.edits.merge.methods._selection import Selection, value_of
from steelyard.edits.merge.methods.linear import Weighted
from steelyard.edits.merge.registry import merge_method


class PcbMergingOptions(BaseModel):
    """Options of PCB-Merging."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ratio: float = Field(0.1, gt=0, le=1, description="share of the entries of a task vector that have a score")
    clamp: float = Field(0.01, ge=0, lt=0.5, description="share of entries at either end that are clamped")
    normalized: bool = Field(
        False, description="compare tasks by task vectors normalized to [-1, 1] rather than as they are"
    )


@merge_method(
    name="pcb_merging",
    summary="entries averaged by scores of their magnitude within a task and their agreement with the other tasks",
    paper="Du et al. 2024, arXiv 2410.02396",
    options=PcbMergingOptions,
    per_model=Weighted,
    base="required",
)
def pcb_merging(task: Task, options: PcbMergingOptions) -> Merge:
    """Average task vectors T_i with scores that balance competition within and between tasks.

    With A_i = |T_i| clamped, normalized to [0, 1] as N_i: score = exp(n N_i^2) tanh(T_i sum_j T_j) for n tasks;
    scores below the `ratio` largest are raised to the smallest of these, then normalized to [0, 1]. The published
    code sums task vectors as they are (language) or as sign(T_j) N_j (vision): `normalized`. Order statistics are
    taken tensor by tensor, where the published code takes them over the whole model. Weights are the lambda_i.

    Source: Du et al. 2024, arXiv 2410.02396, section 3 (intra-balancing, inter-balancing, drop and rescale), and
    the authors' code, github.com/duguodong7/pcb-merging, PCB_merge and vision_source_code/pcb.py.
    """
    base = base_of(task)
    if not task.experts:
        return only(task, base)
    return _Balanced(task, base, options)


class _Balanced(Merge):
    rounds = 2 * Selection.rounds

    def __init__(self, task: Task, base: int, options: PcbMergingOptions) -> None:
        self._base, self._experts, self._normalized = base, list(task.experts), options.normalized
        models = len(task.models)
        self._weights = np.zeros(models, np.float32)
        self._weights[self._experts] = [task.parameters[row].weight for row in task.experts]
        size = int(np.prod(task.shape, dtype=np.int64))
        low, high = int(size * options.clamp), max(int(size * (1 - options.clamp) - 1), 0)
        scored = min(int(size * (1 - options.ratio)), max(size - 1, 0))
        count = len(task.experts)
        self._extremes = Selection(size, [[size - low, size - high]] * count, exact=True)
        self._scored = Selection(size, [[size - scored, 1]] * count, exact=True)
        self._low, self._span, self._floor, self._height = np.zeros((4, models), np.float32)

    def observe(self, round: int, piece: Piece) -> Any:
        from steelyard.edits.merge.methods._pcb_kernels import score_keys

        values = np.ascontiguousarray(piece.values)
        if round < Selection.rounds:
            rows = [values[row] for row in self._experts]
            return self._extremes.observe_differences(round, piece.start, rows, values[self._base])
        keys = np.empty((len(self._experts), values.shape[1]), np.uint32)
        score_keys(values, self._base, self._low, self._span, self._normalized, keys)
        return self._scored.observe(round - Selection.rounds, piece.start, list(keys))

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        if round < Selection.rounds:
            self._extremes.conclude(round, observed)
        else:
            self._scored.conclude(round - Selection.rounds, observed)
        if round == 1:
            found = [[cut.threshold for cut in cuts] for cuts in self._extremes.cuts]
            low, high = np.array(found, np.uint32).view(np.float32).T
            self._low[self._experts], self._span[self._experts] = low, high - low
        if round == 3:
            floor, top = np.array([[value_of(cut.threshold) for cut in cuts] for cuts in self._scored.cuts]).T
            self._floor[self._experts], self._height[self._experts] = floor, top - floor

    def combine(self, piece: Piece) -> np.ndarray:
        from steelyard.edits.merge.methods._pcb_kernels import balance

        values = np.ascontiguousarray(piece.values)
        merged = np.empty(values.shape[1], np.float32)
        balance(
            values,
            self._base,
            self._low,
            self._span,
            self._normalized,
            self._floor,
            self._height,
            self._weights,
            merged,
        )
        return merged
