"""Many experts in one folder: a merged task vector, and for each task one bit an entry.

A store holds for every float tensor of the base `NAME`, the merged task vector, and `NAME.masks` uint8
[tasks, bytes], the packed masks in the order of `masks.json`. Any expert is the base plus its part of the vector.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from steelyard.edits.merge.inputs import InputModel, StoredModel
from steelyard.edits.merge.masks.tall import unpack
from steelyard.edits.merge.pieces import cuts
from steelyard.edits.merge.tensors import Computed, Models
from steelyard.errors import UserError
from steelyard.parallel import stream_threads
from steelyard.progress import SILENT, Progress
from steelyard.weights import (
    DTYPES,
    Checkpoint,
    FolderWriter,
    StoredTensor,
    bytes_hash,
    check_output,
    plan_layout,
)

FILE_NAME = "masks.json"
MASKS = ".masks"
"""Ends the name of a tensor's masks."""
_NOT_OURS = ("steelyard.json", "report.html")
"""Files of the base that speak of the base's weights alone."""
BASE = "base"
"""What the base is called among the models."""


class Store:
    """A store opened for reading; use it in a `with` block.

    Args:
        folder: the store.
        base: the base model; None for where it lay when the store was made.

    Raises:
        UserError: if it is no store, or its base is another model.
    """

    def __init__(self, folder: str | Path, base: str | None = None) -> None:
        path = Path(folder) / FILE_NAME
        try:
            self._record = json.loads(path.read_bytes())
            self.tasks: tuple[str, ...] = tuple(self._record["tasks"])
            location, expected = base or self._record["base"]["location"], self._record["base"]["identity"]
        except FileNotFoundError:
            raise UserError(f"{folder} is no store of task masks: it has no {FILE_NAME}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); make the store again") from None
        self._stack = ExitStack()
        self.checkpoint = self._stack.enter_context(Checkpoint.open(folder))
        self.base = open_input(self._stack, location, BASE)
        if identity(self.base) != expected:
            self._stack.close()
            raise UserError(f"{location} is not the base {folder} was made with; name the right one with --base")
        self._models = Models({BASE: self.base})

    def reader(self, task: str, name: str) -> Callable[[int, int], np.ndarray]:
        """Return what reads entries of a task's tensor, float32: the base and the masked vector."""
        base, merged = self._models.reader(name), self.checkpoint.tensor(name).reshape(-1)
        bits = self.checkpoint.tensor(name + MASKS)[self._row(task)]

        def read(start: int, stop: int) -> np.ndarray:
            return masked(base(start, stop)[0], merged[start:stop].astype(np.float32), unpack(bits, start, stop))

        return read

    def source(self, task: str) -> Computed:
        """Return a task's model as weights to measure."""
        self._row(task)

        def compute(name: str) -> np.ndarray:
            shape = self._models.shape(name)
            return self.reader(task, name)(0, count(self._models, name)).reshape(shape)

        return Computed(self._models, compute)

    def reconstruct(
        self,
        task: str,
        out: str | Path,
        *,
        resume: bool = False,
        record: Callable[[Mapping[str, Any]], bytes] | None = None,
        progress: Progress = SILENT,
    ) -> Path:
        """Write a task's model as a folder of the base's types and files; return its path.

        Args:
            task: its name.
            out: the folder to make.
            resume: continue an interrupted run.
            record: makes `steelyard.json` of its sections; without it none is written.
            progress: advanced by tensors.

        Raises:
            UserError: if there is no such task, or the output exists.
        """
        self._row(task)
        path = check_output(out, self.base.checkpoint.folder, resume)
        names = self.base.names
        stored = [StoredTensor(name, self.base.dtype(name), self._models.shape(name)) for name in names]
        work = json.dumps([task, self._record["outputs"]])
        progress.start("unpacking", len(names), "tensors")
        layout = plan_layout(stored)
        with FolderWriter(path, layout, resume=resume, plan_hash=bytes_hash(work.encode())) as writer:
            left = [tensor for tensor in stored if not writer.done(tensor.name)]
            made = stream_threads(lambda tensor: self._tensor(task, tensor), left)
            for tensor, values in zip(left, made, strict=True):
                writer.write(tensor.name, values)
                progress.advance(1)
            progress.finish()
            files = [name for name in self.base.checkpoint.other_files if name not in _NOT_OURS]
            writer.carry(self.base.checkpoint, files)
            if record is not None:
                sections = {
                    "verb": "unpack",
                    "request": {"task": task},
                    "plan": {"task": task, "threshold": self._record.get("thresholds", {}).get(task)},
                    "inputs": {BASE: self._record["base"]["identity"], "store": bytes_hash(work.encode())},
                    "outputs": writer.file_hashes(weights=False),
                    "tensors": writer.tensor_hashes(),
                    "bytes": {"files": {file.name: file.size for file in layout.files}},
                    "errors": {},
                }
                writer.add_file("steelyard.json", record(sections))
            return writer.finish()

    def close(self) -> None:
        """Let go of the files."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _tensor(self, task: str, tensor: StoredTensor) -> np.ndarray:
        if not self._models.is_float(tensor.name):
            return self._models.whole(BASE, tensor.name)
        result = np.empty(count(self._models, tensor.name), DTYPES[tensor.dtype].numpy)
        read = self.reader(task, tensor.name)
        for start, stop in cuts(tensor.shape, "entry"):
            result[start:stop] = read(start, stop)
        return result.reshape(tensor.shape)

    def _row(self, task: str) -> int:
        if task not in self.tasks:
            raise UserError(f"the store has no task {task!r}; it has {', '.join(self.tasks)}")
        return self.tasks.index(task)


def masked(base: np.ndarray, merged: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a base with the entries of a merged task vector that a mask keeps, float32."""
    result: np.ndarray = base + np.where(mask, merged, np.float32(0))
    return result


def open_input(stack: ExitStack, location: str, label: str) -> StoredModel:
    """Open a model that is closed with the stack."""
    model = StoredModel.open(str(location), label)
    stack.callback(model.close)
    return model


def identity(model: InputModel) -> str:
    """Return one hash of a model's weight files, wherever they lie."""
    hashes = model.checkpoint.content_hash()
    return bytes_hash(json.dumps([hashes[file] for file in model.checkpoint.weight_files]).encode())


def count(models: Models, name: str) -> int:
    """Return the number of entries of a tensor."""
    return int(np.prod(models.shape(name), dtype=np.int64))
