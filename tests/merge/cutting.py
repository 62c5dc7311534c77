"""A merge method on a tensor cut into pieces, in another order than the tensor's: what engines may do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from steelyard.edits.merge.base import Merge, Piece, Task
from steelyard.edits.merge.registry import get


def task_of(
    method: str,
    tensors: np.ndarray,
    base: int | None,
    per_model: dict[str, list[Any]] | None = None,
    seed: int = 0,
    name: str = "layer.weight",
) -> Task:
    """Return the task of merging float32 [models, *shape]; values are for the models that are not the base."""
    known = get(method)
    experts = [row for row in range(len(tensors)) if row != base]
    given: list[dict[str, Any]] = [{} for _ in tensors]
    for key, values in (per_model or {}).items():
        for row, value in zip(experts, values, strict=True):
            given[row][key] = value
    parameters = tuple(known.per_model.model_validate(values) for values in given)
    labels = tuple(f"model-{row}" for row in range(len(tensors)))
    return Task(name, tensors.shape[1:], labels, base, parameters, seed)


def merged(
    method: str,
    tensors: np.ndarray,
    base: int | None,
    options: dict[str, Any] | None = None,
    per_model: dict[str, list[Any]] | None = None,
    *,
    entries: int = 1 << 16,
    seed: int = 0,
) -> np.ndarray:
    """Return the merged tensor, float32 [*shape]."""
    known = get(method)
    merge = known.function(task_of(method, tensors, base, per_model, seed), known.build(options or {}))
    return cut_and_merge(merge, tensors, entries)


def cut_and_merge(merge: Merge, tensors: np.ndarray, entries: int) -> np.ndarray:
    """Run a merge over pieces of about so many entries, the last piece first, each piece read afresh."""
    shape = tensors.shape[1:]
    flat = tensors.reshape(len(tensors), -1)
    size = flat.shape[1]
    columns = math.prod(shape[1:]) if len(shape) > 1 else 1
    step = {"tensor": size, "row": max(entries // columns, 1) * columns, "entry": entries}[merge.grain]
    starts = list(range(0, size, step))

    def piece(start: int) -> Piece:
        return Piece(start, flat[:, start : start + step].copy(), columns)

    for number in range(merge.rounds):
        observed = {start: merge.observe(number, piece(start)) for start in reversed(starts)}
        merge.conclude(number, [observed[start] for start in starts])
    factors = merge.coefficients()
    result = np.empty(size, np.float32)
    for start in reversed(starts):
        result[start : start + step] = merge.combine(piece(start))
    if factors is not None:
        np.testing.assert_allclose(result, factors @ flat.astype(np.float64), rtol=2e-5, atol=2e-6)
    return result.reshape(shape)
