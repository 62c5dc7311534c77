"""What reinforced agent merging does with task vectors: entries of one expert alone, and entries of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.edits.merge.methods._rows import base_of


class Shared(Merge):
    """Entries that one expert changed are taken as they are, those that several changed are averaged over these.

    Args:
        task: with a base.
        epsilon: magnitude up to which an entry is taken for unchanged.
        growth: by how much unique entries grow for each shared entry there is for a unique one.
        most: the ratio of shared to unique entries beyond which they grow no more.
    """

    def __init__(self, task: Task, epsilon: float, growth: float = 0.0, most: float = 0.0) -> None:
        self._base, self._epsilon = base_of(task), np.float32(epsilon)
        self._growth, self._most = growth, most
        self._factors = np.ones(len(task.models), np.float32)
        self.rounds = 1 if growth else 0

    def observe(self, round: int, piece: Piece) -> Any:
        """Return how many entries of each model are shared, and how many are its own; int64 [2, models]."""
        from steelyard.edits.merge.methods._task_kernels import count_changes

        counts = np.zeros((2, len(piece.values)), np.int64)
        count_changes(np.ascontiguousarray(piece.values), self._base, self._epsilon, counts)
        return counts

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        """Compute the factors of unique entries."""
        shared, unique = np.sum(observed, axis=0)
        ratio = shared / np.maximum(unique, float(self._epsilon))
        self._factors = (1 + self._growth * np.clip(ratio, 0, self._most)).astype(np.float32)

    def combine(self, piece: Piece) -> np.ndarray:
        """Return the merged entries."""
        from steelyard.edits.merge.methods._task_kernels import share

        values = np.ascontiguousarray(piece.values)
        merged = np.empty(values.shape[1], np.float32)
        share(values, self._base, self._epsilon, self._factors, merged)
        return merged
