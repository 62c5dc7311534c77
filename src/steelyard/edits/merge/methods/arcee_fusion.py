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
        base, other = piece.values[self._base], piece.values[self._other]
        merged: np.ndarray = np.where(self._importance(piece) >= self._threshold, base + (other - base), base)
        return merged

    def _importance(self, piece: Piece) -> np.ndarray:
        """Return the importance of every entry, float32 [entries]."""
        change = np.abs(piece.values[self._other] - piece.values[self._base]).reshape(-1, self._width)
        importance: np.ndarray = change * self._divergences[piece.start][:, None]
        return importance.reshape(-1)

    def _divergence(self, values: np.ndarray) -> np.ndarray:
        """Return the divergence of every row, float32 [rows]."""
        other = _softmax(values[self._other].reshape(-1, self._width)) + _EPSILON
        base = _softmax(values[self._base].reshape(-1, self._width)) + _EPSILON
        divergence = (other * np.log(other / base)).sum(axis=1)
        found: np.ndarray = np.maximum(divergence, 0.0).astype(np.float32)
        return found


def _softmax(rows: np.ndarray) -> np.ndarray:
    """Return the softmax of each row, float64 [rows, columns]."""
    powers = np.exp(rows.astype(np.float64) - rows.max(axis=1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found
