"""Atomic writing of a model folder: staged beside its final name, resumable after a kill at any moment."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

import numpy as np
from blake3 import blake3

from steelyard.errors import VerificationError
from steelyard.progress import SILENT, Progress
from steelyard.weights.checkpoint import Checkpoint
from steelyard.weights.dtypes import DTYPES
from steelyard.weights.hashing import file_hash, raw_bytes
from steelyard.weights.header import shown
from steelyard.weights.journal import Finished
from steelyard.weights.layout import INDEX_FILE, Layout, StoredTensor
from steelyard.weights.output import DiskFullError, check_output, check_space, disk_errors, staging_folder
from steelyard.weights.staging import Staging

# Hashed and written piece by piece, so that the second pass finds the piece in the processor's cache.
_PIECE = 1 << 20


class FolderWriter:
    """Writes one model folder that takes its final name only when it is complete and verified.

    Use it in a `with` block. Leaving the block before `finish` keeps the staging folder for a later run with
    `resume`, unless nothing in it is worth keeping or the disk is full and `resume` was not asked for.
    `write`, `write_rows`, `write_entries` and `done` may be called from threads, each for tensors, rows or entries
    of its own.

    Args:
        out: the folder to be; it must not exist.
        layout: where every byte of the weights goes.
        resume: continue an unfinished run of the same plan, if there is one.
        plan_hash: names the work; a staged folder of another plan is refused.
        source: the local folder that is read, if any; nothing is ever written into it.

    Raises:
        UserError: if the folder exists, lies within the source, does not fit the disk, cannot be written, or
            is being written by another run.

    Example:
        >>> with FolderWriter(out, layout, plan_hash=plan) as writer:  # doctest: +SKIP
        ...     for name in names:
        ...         if not writer.done(name):
        ...             writer.write(name, make(name))
        ...     writer.finish()
    """

    def __init__(
        self,
        out: str | Path,
        layout: Layout,
        resume: bool = False,
        plan_hash: str = "",
        source: str | Path | None = None,
    ) -> None:
        self._out = check_output(out, source, resume)
        self._layout = layout
        self._resume = resume
        self._places: dict[str, tuple[str, int, StoredTensor]] = {
            name: (file.name, file.offsets[name], tensor)
            for file in layout.files
            for name, tensor in file.tensors.items()
        }
        self._trusted: set[str] = set()
        self._rows: dict[str, list[tuple[int, int]]] = {}
        self._others: set[str] = set()
        self._lock = threading.Lock()
        self._disk_full = False
        self._complete = False
        self._closed = False
        check_space(self._out, layout)
        with disk_errors(self._out, layout.total_bytes):
            self._stage = Staging(self._out, layout, plan_hash)

    @property
    def out(self) -> Path:
        """The final name."""
        return self._out

    @property
    def staging(self) -> Path:
        """The hidden folder beside the final name that holds an unfinished output; it may be gone."""
        return staging_folder(self._out)

    @property
    def folder(self) -> Path:
        """The model folder as it stands: staged, or under its final name once `finish` has returned."""
        return self._out if self._complete else self._stage.folder

    def write(self, name: str, array: np.ndarray[Any, Any]) -> None:
        """Write one tensor, whole.

        Args:
            name: a tensor of the layout.
            array: of exactly the planned type and shape (1-D uint8 of raw bytes for F4 and F6).

        Raises:
            UserError: if the disk is full or cannot be written.
            ValueError: if the layout has no such tensor, or one of another type or shape.
        """
        file, begin, tensor = self._place(name)
        data = _checked(tensor, array, tensor.shape)
        digest = blake3()
        with self._disk():
            for start in range(0, len(data), _PIECE):
                piece = data[start : start + _PIECE]
                digest.update(piece)
                self._stage.write(file, piece, begin + start)
            self._stage.flush(file, begin, len(data))
            self._finished(name, digest.hexdigest())

    def write_rows(self, name: str, row_start: int, array: np.ndarray[Any, Any]) -> None:
        """Write some rows of a tensor along its first axis; it is done when every row has been written.

        Args:
            name: a tensor of the layout; not of F4 or F6, which are written whole.
            row_start: the first row.
            array: [rows, …] of the planned type.

        Raises:
            UserError: if the disk is full or cannot be written.
            ValueError: if the rows are not within the tensor, or of another type or shape.
        """
        file, begin, tensor = self._place(name)
        stop = row_start + (array.shape[0] if array.ndim else 0)
        if not tensor.shape or not 0 <= row_start <= stop <= tensor.shape[0]:
            raise ValueError(f"rows {row_start}:{stop} of tensor {shown(name)} of shape {tensor.shape}")
        data = _checked(tensor, array, (stop - row_start, *tensor.shape[1:]))
        offset = begin + DTYPES[tensor.dtype].nbytes((row_start, *tensor.shape[1:]))
        with self._disk():
            self._stage.write(file, data, offset)
            self._stage.flush(file, offset, len(data))
            if self._covers(name, row_start, stop, tensor.shape[0]):
                self._finished(name, self._stage.hash(file, begin, tensor.nbytes))

    def write_entries(self, name: str, start: int, array: np.ndarray[Any, Any]) -> None:
        """Write some entries of a flattened tensor; it is done when every entry has been written.

        Args:
            name: a tensor of the layout; not of F4 or F6, which are written whole.
            start: position of the first entry.
            array: [entries] of the planned type.

        Raises:
            UserError: if the disk is full or cannot be written.
            ValueError: if the entries are not within the tensor, or of another type.
        """
        file, begin, tensor = self._place(name)
        entries = math.prod(tensor.shape)
        if not 0 <= start <= start + array.size <= entries:
            raise ValueError(f"entries {start}:{start + array.size} of tensor {shown(name)} of {entries}")
        data = _checked(tensor, array, (array.size,))
        offset = begin + DTYPES[tensor.dtype].nbytes((start,))
        with self._disk():
            self._stage.write(file, data, offset)
            if self._covers(name, start, start + array.size, entries):
                self._stage.flush(file, begin, tensor.nbytes)
                self._finished(name, self._stage.hash(file, begin, tensor.nbytes))

    def done(self, name: str) -> bool:
        """Tell whether a tensor is complete; what an earlier run left is hashed again before it counts.

        Raises:
            ValueError: if the layout has no such tensor.
        """
        file, begin, tensor = self._place(name)
        if name in self._trusted:
            return True
        finished = self._stage.journal.finished.get(name)
        if finished is None or finished.nbytes != tensor.nbytes:
            return False
        if finished.blake3 != self._stage.hash(file, begin, tensor.nbytes):
            return False
        self._trusted.add(name)
        return True

    def tensor_hashes(self) -> dict[str, str]:
        """Return the BLAKE3, in hexadecimal, of every tensor that is complete."""
        journal = self._stage.journal
        return {name: journal.finished[name].blake3 for name in self._places if self.done(name)}

    def file_hashes(self, progress: Progress = SILENT, weights: bool = True) -> dict[str, str]:
        """Return the BLAKE3, in hexadecimal, of every file the folder holds so far.

        Args:
            progress: advanced by bytes.
            weights: whether the weight files are among them; `tensor_hashes` costs no second reading.
        """
        index = [] if self._layout.index is None else [INDEX_FILE]
        files = self._names() if weights else set()
        paths = {name: self.folder / name for name in sorted({*files, *index, *self._others})}
        progress.start("hashing the output", sum(path.stat().st_size for path in paths.values()), "B")
        hashes = {}
        for name, path in paths.items():
            hashes[name] = file_hash(path)
            progress.advance(path.stat().st_size)
        progress.finish()
        return hashes

    def add_file(self, relative: str, data: bytes | Iterable[bytes]) -> None:
        """Add a file that holds no weights, replacing one of the same name.

        A resumed run adds every such file anew.

        Args:
            relative: its name in the folder, with forward slashes.
            data: its content, whole or in pieces.

        Raises:
            UserError: if the disk is full or cannot be written.
            ValueError: if the name leaves the folder or is that of a weight file.
        """
        path = PurePosixPath(relative)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"{relative!r} is not a name within the folder")
        if str(path) in self._names() or str(path) == INDEX_FILE:
            raise ValueError(f"{relative!r} is a file of the layout")
        with self._disk():
            self._stage.put(str(path), [data] if isinstance(data, bytes) else data)
        self._others.add(str(path))

    def carry(self, checkpoint: Checkpoint, names: Iterable[str] | None = None) -> None:
        """Copy files of a checkpoint as they are.

        Args:
            checkpoint: where from.
            names: which; every file that makes up the model beside its weights if absent.

        Raises:
            UserError: if one cannot be read or written.
        """
        for name in checkpoint.other_files if names is None else names:
            self.add_file(name, checkpoint.stream_other(name))

    def finish(self, verify: Callable[[Path], None] | None = None) -> Path:
        """Bring everything to the disk, verify it, and give the folder its final name.

        Args:
            verify: looks at the staged folder and raises if it is not what was planned; the folder then
                does not take its name, and stays in `staging`.

        Returns:
            The final folder.

        Raises:
            VerificationError: if a tensor was never written or a file has not the planned size.
            UserError: if the disk is full or cannot be written.
        """
        missing = [name for name in self._places if not self.done(name)]
        if missing:
            raise VerificationError(
                f"{len(missing)} of {len(self._places)} tensors were never written, such as {shown(missing[0])}"
            )
        with self._disk():
            self._stage.sync()
        for file in self._layout.files:
            size = (self.folder / file.name).stat().st_size
            if size != file.size:
                raise VerificationError(
                    f"{self.folder / file.name} has {size:,} bytes, not {file.size:,} as planned"
                )
        if verify is not None:
            verify(self.folder)
            with self._disk():
                self._stage.sync()  # what was added to the folder meanwhile: its record, its report
        check_output(self._out, resume=True)
        with self._disk():
            self._stage.publish()
        self._complete = True
        self.close()
        return self._out

    def close(self) -> None:
        """Let go of the files; the staging folder stays if a later run can use it."""
        if self._closed:
            return
        self._closed = True
        given_up = self._disk_full and not self._resume
        self._stage.close(keep=bool(self._stage.journal.finished) and not self._complete and not given_up)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _names(self) -> set[str]:
        return {file.name for file in self._layout.files}

    def _place(self, name: str) -> tuple[str, int, StoredTensor]:
        if name not in self._places:
            raise ValueError(f"the layout has no tensor {shown(name)}")
        return self._places[name]

    def _finished(self, name: str, digest: str) -> None:
        self._stage.journal.add(name, Finished(digest, self._places[name][2].nbytes))
        self._trusted.add(name)

    def _covers(self, name: str, start: int, stop: int, rows: int) -> bool:
        """Note that rows [start, stop) are written; tell whether that was the last of them."""
        with self._lock:
            merged: list[tuple[int, int]] = []
            for first, last in sorted([*self._rows.get(name, []), (start, stop)]):
                if merged and first <= merged[-1][1]:
                    merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
                else:
                    merged.append((first, last))
            self._rows[name] = merged
            return merged == [(0, rows)]

    @contextmanager
    def _disk(self) -> Iterator[None]:
        if self._closed:
            raise ValueError(f"the writer of {self._out} is closed")
        try:
            with disk_errors(self._out, self._layout.total_bytes):
                yield
        except DiskFullError:
            # Threads may still be writing, so the staged files are let go of in `close`.
            self._disk_full = True
            raise


def _checked(tensor: StoredTensor, array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> memoryview:
    """Return an array's bytes if it is what the layout has room for."""
    expected = DTYPES[tensor.dtype].numpy
    if expected is None:
        expected, shape = np.dtype(np.uint8), (tensor.nbytes,)
    if array.dtype != expected or array.shape != shape:
        raise ValueError(
            f"tensor {shown(tensor.name)}: got {array.dtype} {array.shape}, the layout has {expected} {shape}"
        )
    return raw_bytes(array if array.flags.c_contiguous else array.copy(order="C"))
