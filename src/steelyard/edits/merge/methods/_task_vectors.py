"""Merges of task vectors: thin out each expert's difference from the base, mix the differences, add the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model

from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.edits.merge.methods._rows import base_of, only
from steelyard.edits.merge.methods._sparsifiers import Kept, Sparsifier

_NEGLIGIBLE = 1e-7  # sums of magnitudes below it are not rescaled
_SMALLEST_SUM = 1e-8  # sums of weights below it do not normalize


class _Mixing(BaseModel):
    """What every merge of task vectors can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    normalize: bool = Field(False, description="divide by the sum of the weights that take part")
    rescale: bool = Field(False, description="bring thinned task vectors back to the sum of their magnitudes")


class WeightedExpert(BaseModel):
    """What is set for each expert."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(1.0, allow_inf_nan=False, description="factor of this task vector")
    density: float = Field(1.0, ge=0, allow_inf_nan=False, description="share of entries kept; all from 1 on")


class OutlierExpert(WeightedExpert):
    """What is set for each expert whose largest entries go too."""

    gamma: float = Field(0.01, ge=0, le=1, description="share of entries dropped for being the largest")


class RankedExpert(WeightedExpert):
    """What is set for each expert whose entries are dropped by their rank."""

    epsilon: float = Field(0.15, ge=0, lt=0.5, description="half the range of the chances to be kept")


def mixing_options(name: str, *, normalize: bool, rescale: bool) -> type[BaseModel]:
    """Return the options of a method, with its defaults; `lambda` cannot be written as an attribute."""
    fields: dict[str, Any] = {
        "normalize": (bool, Field(normalize, description=_described("normalize"))),
        "rescale": (bool, Field(rescale, description=_described("rescale"))),
        "lambda": (float, Field(1.0, allow_inf_nan=False, description="factor of the mixture of task vectors")),
    }
    options: type[BaseModel] = create_model(name, __base__=_Mixing, __doc__="Options of the merge.", **fields)
    return options


def _described(field: str) -> str | None:
    return _Mixing.model_fields[field].description


def merge_task_vectors(
    task: Task, options: BaseModel, sparsifier: Callable[[Task], Sparsifier] | None = None, *, elect: bool = False
) -> Merge:
    """Return the merge of task vectors.

    Args:
        task: with `WeightedExpert` parameters.
        options: of `mixing_options`.
        sparsifier: what thins the task vectors, None for nothing.
        elect: leave out, entry by entry, what goes against the sign of the weighted sum.
    """
    if not task.experts:
        return only(task, base_of(task))
    return _TaskVectors(task, options.model_dump(), sparsifier(task) if sparsifier else None, elect)


class _TaskVectors(Merge):
    def __init__(self, task: Task, options: dict[str, Any], sparsifier: Sparsifier | None, elect: bool) -> None:
        self._base, self._sparsifier, self._elect = base_of(task), sparsifier, elect
        self._normalize, self._scale = bool(options["normalize"]), np.float32(options["lambda"])
        self._weights = np.zeros(len(task.models), np.float32)
        self._factors = np.ones(len(task.models), np.float32)
        for row in task.experts:
            self._weights[row] = task.parameters[row].weight
        if sparsifier is not None:
            self._rescale = bool(options["rescale"] and sparsifier.thinned)
            self.rounds = sparsifier.rounds + self._rescale
            self.grain = sparsifier.grain

    def observe(self, round: int, piece: Piece) -> Any:
        sparsifier, values = self._sparsifier, np.ascontiguousarray(piece.values)
        assert sparsifier is not None
        if round < sparsifier.rounds:
            return sparsifier.observe(round, piece.start, values)
        return sparsifier.weigh(piece.start, values)

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        sparsifier = self._sparsifier
        assert sparsifier is not None
        if round < sparsifier.rounds:
            sparsifier.conclude(round, observed)
            return
        before, after = np.sum(observed, axis=0)
        enough = (before >= _NEGLIGIBLE) & (after >= _NEGLIGIBLE)
        self._factors[sparsifier.thinned] = np.where(enough, before / np.where(enough, after, 1.0), 1.0)

    def coefficients(self) -> np.ndarray | None:
        if self._sparsifier is not None or self._elect:
            return None
        factors = self._weights.astype(np.float64) * float(self._scale) / float(self._divisor())
        factors[self._base] = 1.0 - factors.sum()
        return factors

    def combine(self, piece: Piece) -> np.ndarray:
        from steelyard.edits.merge.methods._sum_kernels import subtract
        from steelyard.edits.merge.methods._task_kernels import mix

        values = np.ascontiguousarray(piece.values)
        kept: Kept | None = Kept(len(values))
        if self._sparsifier is not None:
            kept = self._sparsifier.kept(piece.start)
            if kept is None:
                subtract(values, self._base)
                self._sparsifier.apply(piece.start, values)
        known = kept or Kept(len(values))
        parts = self._weights * self._factors
        merged = np.empty(values.shape[1], np.float32)
        mix(
            values,
            self._base,
            kept is None,
            known.limits,
            known.draws,
            piece.start,
            np.stack([parts, parts, self._weights]),
            self._elect,
            self._divisor(),
            self._scale,
            merged,
        )
        return merged

    def _divisor(self) -> np.float32:
        """Return the divisor as `mix` wants it."""
        if self._elect:
            return np.float32(-1 if self._normalize else np.inf)
        total = self._weights.sum()
        return total if self._normalize and abs(total) >= _SMALLEST_SUM else np.float32(1)
