"""Arcee fusion: take over only the changes that matter most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.edits.merge.methods._rows import base_of, only
from steelyard.edits.merge.methods._selection import Selection
from steelyard.edits.merge.registry import merge_method

_EPSILON = 1e-8
_QUARTILES = (0.25, 0.5, 0.75)


@merge_method(
    name="arcee_fusion",
    summary="the other model's changes of outstanding importance: magnitude times divergence of the row's softmax",
    paper="mergekit 0.1.5, arcee_fusion",
    base="required",
    most=1,
    mergekit="arcee_fusion",
)
def arcee_fusion(task: Task, options: BaseModel) -> Merge:
    """Take an entry from the other model where its importance reaches the median plus 1.5 interquartile ranges.

    An entry's importance is |difference| times the Kullback-Leibler divergence between the softmaxes of its row
    in both models. Quartiles are exact for any size; divergences are computed in double precision.

    Source: mergekit 0.1.5, where the method was published.
    """
    base = base_of(task)
    if not task.experts:
        return only(task, base)
    return _Fusion(task, base)


class _Fusion(Merge):
    def __init__(self, task: Task, base: int) -> None:
        self._base, self._other = base, task.experts[0]
        self._size = int(np.prod(task.shape, dtype=np.int64))
        self._width = task.shape[-1] if task.shape else 1
        self._divergences: dict[int, np.ndarray] = {}
        places = [int(np.float32(share) * np.float32(self._size - 1)) for share in _QUARTILES]
        self._selection = Selection(self._size, [[self._size - place for place in places]], exact=True)
        self._threshold = np.float32(0)
        self.grain = "row" if len(task.shape) == 2 else "tensor"
        self.rounds = Selection.rounds

    def observe(self, round: int, piece: Piece) -> Any:
        if round == 0:
            self._divergences[piece.start] = self._divergence(piece.values)
        return self._selection.observe(round, piece.start, [self._importance(piece).view(np.uint32)])

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        self._selection.conclude(round, observed)
        if round == 1:
            bits = np.array([cut.threshold for cut in self._selection.cuts[0]], np.uint32)
            low, median, high = bits.view(np.float32)
            self._threshold = median + np.float32(1.5) * (high - low)

    def combine(self, piece: Piece) -> np.ndarray:
        from steelyard.edits.merge.methods._fusion_kernels import take

        base, other = self._pair(piece.values)
        merged = np.empty(base.size, np.float32)
        take(other, base, self._importance(piece), self._threshold, merged)
        return merged

    def _importance(self, piece: Piece) -> np.ndarray:
        """Return the importance of every entry, float32 [entries]."""
        from steelyard.edits.merge.methods._fusion_kernels import importances

        base, other = self._pair(piece.values)
        found = np.empty(base.size, np.float32)
        importances(other, base, self._divergences[piece.start], self._width, found)
        return found

    def _divergence(self, values: np.ndarray) -> np.ndarray:
        """Return the divergence of every row, float32 [rows]."""
        from steelyard.edits.merge.methods._fusion_kernels import divergences

        base, other = self._pair(values)
        found = np.empty(base.size // self._width, np.float32)
        divergences(other, base, self._width, _EPSILON, found)
        return found

    def _pair(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ascontiguousarray(values[self._base]), np.ascontiguousarray(values[self._other])
