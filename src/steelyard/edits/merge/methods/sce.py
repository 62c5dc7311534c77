"""SCE: select the entries in which experts differ, weigh experts by their energy, erase minority signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.edits.merge.methods._gram import products
from steelyard.edits.merge.methods._rows import base_of, only
from steelyard.edits.merge.methods._selection import Selection, keep_keys
from steelyard.edits.merge.methods._sparsifiers import Kept
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
        self._weights = np.full(len(task.models), 1 / len(self._experts), np.float32)
        self._selects = share < 1 and self._size > 1
        self._selection = Selection(self._size, [[1]])  # how many is known after the first round
        self.rounds = 3 if self._selects else 1

    def observe(self, round: int, piece: Piece) -> Any:
        if self._selects and round < 2:
            keys = _variance(self._deltas(piece), self._base)
            seen = self._selection.observe(round, piece.start, [keys])
            return seen if round else int(np.count_nonzero(keys))
        deltas = self._selected(piece)
        return np.array([products(deltas[row : row + 1], deltas.shape[1])[0, 0, 0] for row in self._experts])

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        if self._selects and round < 2:
            if round == 0:
                self._selection.cuts[0][0].count = int(sum(observed) * max(self._share, 0.0))
            self._selection.conclude(round, observed)
            return
        energies = np.sum(observed, axis=0) / max(self._size, 1)
        if energies.sum() >= _NEGLIGIBLE:
            self._weights[self._experts] = energies / energies.sum()

    def combine(self, piece: Piece) -> np.ndarray:
        from steelyard.edits.merge.methods._task_kernels import mix

        values = self._selected(piece)
        merged = np.empty(values.shape[1], np.float32)
        kept = Kept(len(values))
        shares = np.stack([np.ones_like(self._weights), self._weights, self._weights])
        least, scale = np.float32(_NEGLIGIBLE), np.float32(1)
        mix(values, self._base, True, kept.limits, kept.draws, piece.start, shares, True, least, scale, merged)
        return merged

    def _deltas(self, piece: Piece) -> np.ndarray:
        from steelyard.edits.merge.methods._sum_kernels import subtract

        values = np.ascontiguousarray(piece.values)
        subtract(values, self._base)
        return values

    def _selected(self, piece: Piece) -> np.ndarray:
        """Return the base, and task vectors without what is not selected; float32 [models, entries]."""
        deltas = self._deltas(piece)
        if self._selects:
            keys = _variance(deltas, self._base)
            for row in self._experts:
                keep_keys(deltas[row], keys, piece.start, self._selection.cuts[0][0])
        return deltas


def _variance(deltas: np.ndarray, base: int) -> np.ndarray:
    """Return the keys of variances over experts, float32 [models, entries] to uint32 [entries]."""
    from steelyard.edits.merge.methods._task_kernels import variance

    found = np.empty(deltas.shape[1], np.float32)
    variance(deltas, base, found)
    return found.view(np.uint32)
