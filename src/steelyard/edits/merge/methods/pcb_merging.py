"""PCB-Merging: parameters compete, those that matter within a task and agree across tasks are merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.edits.merge.methods._rows import base_of, only
from steelyard.edits.merge.methods._selection import Selection, magnitudes, ordered, value_of
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
        self._weights = np.array([task.parameters[row].weight for row in task.experts], np.float32)[:, None]
        size = int(np.prod(task.shape, dtype=np.int64))
        low, high = int(size * options.clamp), max(int(size * (1 - options.clamp) - 1), 0)
        scored = min(int(size * (1 - options.ratio)), max(size - 1, 0))
        count = len(task.experts)
        self._extremes = Selection(size, [[size - low, size - high]] * count, exact=True)
        self._scored = Selection(size, [[size - scored, 1]] * count, exact=True)
        self._low = self._span = self._floor = self._height = np.zeros((count, 1), np.float32)

    def observe(self, round: int, piece: Piece) -> Any:
        deltas = self._deltas(piece)
        if round < Selection.rounds:
            return self._extremes.observe(round, piece.start, [magnitudes(delta) for delta in deltas])
        keys = [ordered(scores) for scores in self._scores(deltas)]
        return self._scored.observe(round - Selection.rounds, piece.start, keys)

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        if round < Selection.rounds:
            self._extremes.conclude(round, observed)
        else:
            self._scored.conclude(round - Selection.rounds, observed)
        if round == 1:
            found = [[cut.threshold for cut in cuts] for cuts in self._extremes.cuts]
            low, high = np.array(found, np.uint32).view(np.float32).T
            self._low, self._span = low[:, None], (high - low)[:, None]
        if round == 3:
            floor, top = np.array([[value_of(cut.threshold) for cut in cuts] for cuts in self._scored.cuts]).T
            self._floor, self._height = floor[:, None], (top - floor)[:, None]

    def combine(self, piece: Piece) -> np.ndarray:
        deltas = self._deltas(piece)
        scores = self._scores(deltas) - self._floor
        shares = np.divide(scores, self._height, out=np.zeros_like(scores), where=self._height > 0)
        shares = np.maximum(shares, np.float32(0))
        clamped = np.copysign(self._clamped(deltas), deltas) * (deltas != 0) * self._weights
        mixed = (clamped * shares).sum(axis=0) / np.maximum(shares.sum(axis=0), np.float32(1e-12))
        merged: np.ndarray = piece.values[self._base] + mixed
        return merged

    def _deltas(self, piece: Piece) -> np.ndarray:
        deltas: np.ndarray = piece.values[self._experts] - piece.values[self._base]
        return deltas

    def _clamped(self, deltas: np.ndarray) -> np.ndarray:
        clamped: np.ndarray = np.clip(np.abs(deltas), self._low, self._low + self._span)
        return clamped

    def _scores(self, deltas: np.ndarray) -> np.ndarray:
        """Return the scores divided by exp(n), so that they stay finite; float32 [experts, entries]."""
        above = self._clamped(deltas) - self._low
        level = np.divide(above, self._span, out=np.zeros_like(above), where=self._span > 0)
        others = (np.sign(deltas) * level if self._normalized else deltas).sum(axis=0)
        scores: np.ndarray = np.exp(len(deltas) * (level * level - 1)) * np.tanh(deltas * others)
        return scores
