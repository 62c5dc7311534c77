"""SCE: select the entries in which experts differ, weigh experts by their energy, erase minority signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.edits.merge.methods._rows import base_of, only
from steelyard.edits.merge.methods._selection import Selection, keep_mask
from steelyard.edits.merge.registry import merge_method

_NEGLIGIBLE = 1e-6


class SceOptions(BaseModel):
    """Options of SCE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    select_topk: float = Field(
        1.0, allow_inf_nan=False, description="share of the entries in which experts differ that is merged"
    )


@merge_method(
    name="sce",
    summary="the entries in which experts differ most, averaged by energy where they agree with the elected sign",
    paper="Wan et al. 2024, arXiv 2408.07990",
    options=SceOptions,
    base="required",
    mergekit="sce",
)
def sce(task: Task, options: SceOptions) -> Merge:
    """Keep the entries of largest variance over experts; weigh each expert by its mean square; elect signs.

    Where the mean squares sum to less than 1e-6, experts weigh alike, as in mergekit.

    Source: Wan et al. 2024, FuseChat, arXiv 2408.07990, section 3.3: select, calculate, erase.
    """
    base = base_of(task)
    if not task.experts:
        return only(task, base)
    return _Sce(task, base, options.select_topk)


class _Sce(Merge):
    def __init__(self, task: Task, base: int, share: float) -> None:
        self._base, self._experts, self._share = base, list(task.experts), share
        self._size = int(np.prod(task.shape, dtype=np.int64))
        self._weights = np.full(len(self._experts), 1 / len(self._experts), np.float32)
        self._selects = share < 1 and self._size > 1
        self._selection = Selection(self._size, [[1]])  # how many is known after the first round
        self.rounds = 3 if self._selects else 1

    def observe(self, round: int, piece: Piece) -> Any:
        deltas = self._deltas(piece)
        if self._selects and round < 2:
            keys = _variance(deltas).view(np.uint32)
            seen = self._selection.observe(round, piece.start, [keys])
            return seen if round else int(np.count_nonzero(keys))
        return np.square(self._selected(piece.start, deltas), dtype=np.float64).sum(axis=1)

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        if self._selects and round < 2:
            if round == 0:
                self._selection.cuts[0][0].count = int(sum(observed) * max(self._share, 0.0))
            self._selection.conclude(round, observed)
            return
        energies = np.sum(observed, axis=0) / max(self._size, 1)
        if energies.sum() >= _NEGLIGIBLE:
            self._weights = (energies / energies.sum()).astype(np.float32)

    def combine(self, piece: Piece) -> np.ndarray:
        deltas = self._selected(piece.start, self._deltas(piece))
        positive = deltas.sum(axis=0) >= 0
        agrees = np.where(positive, deltas > 0, deltas < 0)
        weights = self._weights[:, None] * agrees
        mixed = (deltas * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), np.float32(_NEGLIGIBLE))
        merged: np.ndarray = piece.values[self._base] + mixed
        return merged

    def _deltas(self, piece: Piece) -> np.ndarray:
        deltas: np.ndarray = piece.values[self._experts] - piece.values[self._base]
        return deltas

    def _selected(self, start: int, deltas: np.ndarray) -> np.ndarray:
        if not self._selects:
            return deltas
        mask = keep_mask(_variance(deltas), start, self._selection.cuts[0][0])
        selected: np.ndarray = deltas * mask
        return selected


def _variance(deltas: np.ndarray) -> np.ndarray:
    """Return the variance over experts, float32 [experts, entries] to [entries]."""
    centred = deltas - deltas.mean(axis=0)
    variance: np.ndarray = np.square(centred).mean(axis=0)
    return variance
