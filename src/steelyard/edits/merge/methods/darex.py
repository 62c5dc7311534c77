"""DAREx: random entries of task vectors, or whole rows or columns of them, rescaled by a tuned 1/q."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.edits.merge.methods._rows import base_of, only
from steelyard.edits.merge.methods._sparsifiers import draw_key
from steelyard.edits.merge.registry import merge_method
from steelyard.errors import UserError

Part = Literal["entry", "row", "column"]


class DarexOptions(BaseModel):
    """Options of DAREx."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drop: Part = Field(
        "entry", description="what is dropped as one: entries, or rows or columns as they are stored"
    )
    inputs: Literal["columns", "rows"] = Field(
        "columns", description="which axis of matrices statistics are of: the last, or as in GPT-2 the first"
    )
    normalize: bool = Field(False, description="divide by the sum of the weights")
    scale: float = Field(1.0, allow_inf_nan=False, description="factor of the mixture of task vectors")


class RescaledExpert(BaseModel):
    """What is set for each expert."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(1.0, allow_inf_nan=False, description="factor of this task vector")
    density: float = Field(0.1, gt=0, le=1, description="share kept, 1 - p")
    q: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="what is kept is divided by q; none is the density, as in DARE"
    )
    calibration: str | None = Field(
        None, description="statistics of this expert's inputs, from which each tensor's q is set instead"
    )


@merge_method(
    name="darex",
    summary="random entries, rows or columns of task vectors, divided by a q that is given or set from statistics",
    paper="Deng et al. 2024, arXiv 2410.09344",
    options=DarexOptions,
    per_model=RescaledExpert,
    base="required",
)
def darex(task: Task, options: DarexOptions) -> Merge:
    """Keep parts of task vectors with the chance 1 - p and divide what is kept by q.

    With q = 1 - p this is DARE. A q can be set for each model, and with filters and gradients for each layer: by
    hand or by a search. With statistics of an expert's inputs (second moments H, as `fit --calibration` keeps
    them), the q of a matrix is the one at which the matrix's outputs change least, in mean square over inputs: with
    the task vector D and what is kept of it K, 1/q = tr(K H D^T) / tr(K H K^T), between 1 and 1/(1 - p). The paper
    searches for the q of least change in the last layer's outputs; this is that search for each matrix, in closed
    form. Tensors without statistics take the given q. Tensors of one axis are dropped entry by entry.

    Raises:
        UserError: if statistics have another shape than the tensor.

    Source: Deng et al. 2024, DARE the Extreme, arXiv 2410.09344: DAREx-q, its rescaling factor 1/q; and the
    authors' code, github.com/vengdeng/DAREx, utils/deltaprune.py (drop, rescale).
    """
    base = base_of(task)
    if not task.experts:
        return only(task, base)
    return _Rescaled(task, base, options)


class _Rescaled(Merge):
    def __init__(self, task: Task, base: int, options: DarexOptions) -> None:
        self._task, self._base, self._options = task, base, options
        self._width = task.shape[-1] if task.shape else 1
        self._turned = options.inputs == "rows"
        self._divisors: dict[int, float] = {}
        self._moments: dict[int, np.ndarray] = {}
        for row in task.experts:
            given = task.parameters[row]
            self._divisors[row] = given.density if given.q is None else given.q
            moment = _moment(given.calibration, task.name) if given.calibration and len(task.shape) == 2 else None
            if moment is not None and given.density < 1:
                inputs = task.shape[0] if self._turned else self._width
                if len(moment) != inputs:
                    raise UserError(
                        f"{given.calibration}: {task.name} has {len(moment)} inputs there, not {inputs}; pass the "
                        f"statistics of {task.models[row]}, with `inputs: rows` if matrices are [inputs, outputs]"
                    )
                self._moments[row] = moment
        self._keys = {row: draw_key(task, row) for row in task.experts}
        self.grain = ("tensor" if self._turned else "row") if self._moments else "entry"
        self.rounds = 1 if self._moments else 0

    def observe(self, round: int, piece: Piece) -> Any:
        seen = []
        for row, moment in self._moments.items():
            delta = piece.values[row] - piece.values[self._base]
            pair = [values.reshape(-1, self._width) for values in (delta, self._kept(row, delta, piece.start))]
            whole, kept = (values.T for values in pair) if self._turned else pair
            spread = kept @ moment
            seen.append([np.einsum("ij,ij", spread, other, dtype=np.float64) for other in (whole, kept)])
        return np.array(seen)

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        for row, (against, alone) in zip(self._moments, np.sum(observed, axis=0), strict=True):
            factor = against / alone if alone > 0 else 1.0
            self._divisors[row] = 1 / float(np.clip(factor, 1.0, 1 / self._task.parameters[row].density))

    def combine(self, piece: Piece) -> np.ndarray:
        base = piece.values[self._base]
        mixed = np.zeros_like(base)
        weights = [self._task.parameters[row].weight for row in self._task.experts]
        total = float(sum(weights)) if self._options.normalize else 1.0
        for row, weight in zip(self._task.experts, weights, strict=True):
            factor = weight * self._options.scale / (total if abs(total) >= 1e-8 else 1.0) / self._divisors[row]
            mixed += np.float32(factor) * self._kept(row, piece.values[row] - base, piece.start)
        merged: np.ndarray = base + mixed
        return merged

    def _kept(self, row: int, delta: np.ndarray, start: int) -> np.ndarray:
        """Return what is kept of a piece of a task vector, float32 [entries]."""
        from steelyard.edits.merge.methods._task_kernels import drop, drop_parts

        limit = round(self._task.parameters[row].density * 2**32)
        kept = delta.copy()
        if limit < 2**32:
            if self._options.drop == "entry" or len(self._task.shape) < 2:
                drop(kept, self._keys[row], start, limit)
            else:
                drop_parts(kept, self._keys[row], start, self._width, self._options.drop == "row", limit)
        return kept


@lru_cache(maxsize=4)
def _calibration(path: str) -> Any:
    from steelyard.measure.calibration import Calibration

    return Calibration.open(path)


def _moment(path: str, name: str) -> np.ndarray | None:
    """Return the second moment of a tensor's inputs, float32 [in, in], None if it is not known or a table."""
    calibration = _calibration(path)
    if name not in calibration.about["owner"] or name in calibration.about["embeddings"]:
        return None
    moment: np.ndarray = calibration.second_moment(name)
    return moment
