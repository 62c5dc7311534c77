"""Making a store: the merged task vector of some experts, and one bit an entry for each of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.masks.store import BASE, FILE_NAME, MASKS, count, identity, masked, open_input
from steelyard.edits.merge.masks.tall import pack, tall_mask
from steelyard.edits.merge.pieces import cuts
from steelyard.edits.merge.tensors import Computed, Models
from steelyard.errors import UserError
from steelyard.parallel import stream_threads
from steelyard.progress import SILENT, Progress
from steelyard.weights import (
    DTYPES,
    FolderWriter,
    Layout,
    StoredTensor,
    bytes_hash,
    check_output,
    plan_layout,
)

_TYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

Record = Callable[[Mapping[str, Any]], bytes]
"""Returns the content of `steelyard.json` from its sections."""

Objective = Callable[[str, Any], float]
"""Returns the loss of a candidate's weights on a task, the lower the better."""


class MaskOptions(BaseModel):
    """How masks are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    thresholds: tuple[float, ...] = Field(
        (0.4,), min_length=1, description="lambda of the masks; of several the best is searched for each task"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="type the merged vector is stored in"
    )


@dataclass(frozen=True)
class StoreResult:
    """What a store takes.

    Attributes:
        out: the folder.
        nbytes: bytes of its weight files.
        base_bytes: bytes of the base's tensors.
        expert_bytes: bytes of all experts' tensors.
        kept: by task, the share of entries its mask keeps.
        thresholds: by task, the lambda.
        losses: by task and lambda, what was measured in the search.
    """

    out: Path
    nbytes: int
    base_bytes: int
    expert_bytes: int
    kept: Mapping[str, float]
    thresholds: Mapping[str, float]
    losses: Mapping[str, Mapping[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "out": str(self.out),
            "bytes": self.nbytes,
            "base_bytes": self.base_bytes,
            "expert_bytes": self.expert_bytes,
            "kept": dict(self.kept),
            "thresholds": dict(self.thresholds),
            "losses": {
                task: {str(key): value for key, value in found.items()} for task, found in self.losses.items()
            },
        }


class Vectors:
    """The task vectors of some experts and their sum, as it will be stored."""

    def __init__(self, base: InputModel, experts: Mapping[str, InputModel], dtype: str) -> None:
        self.tasks = tuple(experts)
        self.models = Models({BASE: base, **experts})
        self.stored = _TYPES[dtype]
        self._dtype = DTYPES[self.stored].numpy
        self.names = [name for name in self.models.names if self.models.is_float(name)]

    def reader(self, name: str) -> Callable[[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return what reads (base [entries], vectors [tasks, entries], their stored sum [entries]), float32."""
        read = self.models.reader(name)

        def piece(start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            values = read(start, stop)
            vectors = values[1:] - values[0]
            return values[0], vectors, vectors.sum(0).astype(self._dtype).astype(np.float32)

        return piece

    def masked(self, task: str, threshold: float) -> Computed:
        """Return what a task's model would be at a threshold."""
        row = self.tasks.index(task)

        def compute(name: str) -> np.ndarray:
            shape = self.models.shape(name)
            base, vectors, merged = self.reader(name)(0, count(self.models, name))
            return masked(base, merged, tall_mask(vectors[row], merged, threshold)).reshape(shape)

        return Computed(self.models, compute)


def build_store(
    base: str,
    experts: Mapping[str, str],
    out: str | Path,
    options: MaskOptions | None = None,
    objective: Objective | None = None,
    *,
    resume: bool = False,
    record: Record | None = None,
    progress: Progress = SILENT,
) -> StoreResult:
    """Write the store of some experts of one base.

    Args:
        base: the model they were fine-tuned from.
        experts: location of each, by the name of its task.
        out: the folder to be.
        options: thresholds and types.
        objective: decides between thresholds; needed if there are several.
        resume: continue an interrupted run.
        record: makes `steelyard.json` of its sections; without it none is written.
        progress: advanced by tensors.

    Raises:
        UserError: for experts that do not fit the base, several thresholds without an objective, or an output that
            exists.

    Source: Wang et al. 2024, arXiv 2405.07813; the merged vector is the sum (task arithmetic).
    """
    options = options or MaskOptions()
    if not experts:
        raise UserError("a store of task vectors needs at least one expert")
    if len(options.thresholds) > 1 and objective is None:
        raise UserError("several thresholds need text to choose by: give --data TASK=TEXT, or one threshold")
    path = check_output(out, None, resume)
    with ExitStack() as stack:
        opened = {task: open_input(stack, location, task) for task, location in experts.items()}
        vectors = Vectors(open_input(stack, base, BASE), opened, options.dtype)
        thresholds, losses = _choose(vectors, options.thresholds, objective)
        layout = _layout(vectors)
        inputs = {label: identity(model) for label, model in vectors.models.inputs.items()}
        work = json.dumps([options.model_dump(mode="json"), inputs, thresholds])
        total = np.zeros(len(vectors.tasks), np.int64)
        progress.start("masks", len(vectors.names), "tensors")
        with FolderWriter(path, layout, resume=resume, plan_hash=bytes_hash(work.encode())) as writer:
            values = [thresholds[task] for task in vectors.tasks]
            made = stream_threads(lambda name: _build(vectors, name, values), vectors.names)
            for name, (merged, masks, kept) in zip(vectors.names, made, strict=True):
                if not writer.done(name):
                    writer.write(name, merged)
                if not writer.done(name + MASKS):
                    writer.write(name + MASKS, masks)
                total += kept
                progress.advance(1)
            progress.finish()
            entries = sum(count(vectors.models, name) for name in vectors.names)
            share = {task: int(kept) / entries for task, kept in zip(vectors.tasks, total, strict=True)}
            store = {
                "tasks": list(vectors.tasks),
                "thresholds": thresholds,
                "kept": share,
                "base": {"location": str(base), "identity": inputs[BASE]},
                "experts": {task: str(location) for task, location in experts.items()},
                "outputs": writer.file_hashes(),
            }
            writer.add_file(FILE_NAME, (json.dumps(store, indent=1) + "\n").encode())
            if record is not None:
                sections = {
                    "verb": "pack",
                    "request": options.model_dump(mode="json"),
                    "plan": {key: store[key] for key in ("tasks", "thresholds", "kept")},
                    "inputs": inputs,
                    "outputs": writer.file_hashes(weights=False),
                    "tensors": writer.tensor_hashes(),
                    "bytes": {"files": {file.name: file.size for file in layout.files}},
                    "errors": {},
                    "losses": {task: {str(k): v for k, v in found.items()} for task, found in losses.items()},
                }
                writer.add_file("steelyard.json", record(sections))
            writer.finish()
        sizes = {label: _bytes(model) for label, model in vectors.models.inputs.items()}
    own = sizes.pop(BASE)
    return StoreResult(path, layout.total_bytes, own, sum(sizes.values()), share, thresholds, losses)


def _choose(
    vectors: Vectors, candidates: Sequence[float], objective: Objective | None
) -> tuple[dict[str, float], dict[str, dict[float, float]]]:
    """Return each task's threshold, and what was measured: the first of the best."""
    if objective is None or len(candidates) == 1:
        return dict.fromkeys(vectors.tasks, candidates[0]), {}
    losses = {
        task: {value: objective(task, vectors.masked(task, value)) for value in candidates}
        for task in vectors.tasks
    }
    return {task: min(found, key=lambda value: found[value]) for task, found in losses.items()}, losses


def _build(vectors: Vectors, name: str, thresholds: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a tensor's merged vector, its masks [tasks, bytes], and how many entries each mask keeps [tasks]."""
    shape, entries = vectors.models.shape(name), count(vectors.models, name)
    merged = np.empty(entries, DTYPES[vectors.stored].numpy)
    masks = np.zeros((len(thresholds), (entries + 7) // 8), np.uint8)
    kept = np.zeros(len(thresholds), np.int64)
    read = vectors.reader(name)
    # Pieces begin at multiples of eight entries, so that every byte of a mask belongs to one piece.
    for start, stop in cuts(shape, "entry"):
        _, taken, total = read(start, stop)
        merged[start:stop] = total
        for row, threshold in enumerate(thresholds):
            mask = tall_mask(taken[row], total, threshold)
            masks[row, start // 8 : (stop + 7) // 8] = pack(mask)
            kept[row] += np.count_nonzero(mask)
    return merged.reshape(shape), masks, kept


def _layout(vectors: Vectors) -> Layout:
    tensors = []
    for name in vectors.names:
        tensors.append(StoredTensor(name, vectors.stored, vectors.models.shape(name)))
        packed = (len(vectors.tasks), (count(vectors.models, name) + 7) // 8)
        tensors.append(StoredTensor(name + MASKS, "U8", packed))
    return plan_layout(tensors)


def _bytes(model: InputModel) -> int:
    return sum(DTYPES[model.dtype(name)].nbytes(tuple(model.shape(name))) for name in model.names)
