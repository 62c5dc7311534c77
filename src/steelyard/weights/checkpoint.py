"""Reading a checkpoint: names, shapes and config at once, weights only when asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress
from steelyard.weights.dtypes import DTYPES
from steelyard.weights.folder import WeightFiles, read_weight_files, split_others
from steelyard.weights.header import TensorInfo, shown
from steelyard.weights.locate import locate
from steelyard.weights.stores import Store

CONFIG_FILE = "config.json"
_PIECE = 1 << 24


class Checkpoint:
    """A model's stored tensors, its config and its other files, read lazily.

    Open one with `Checkpoint.open`; use it in a `with` block or call `close`. Reading is safe from threads.

    Example:
        >>> with Checkpoint.open("path/to/model") as checkpoint:  # doctest: +SKIP
        ...     checkpoint.tensor(checkpoint.names[0]).shape
        (4096, 64)
    """

    def __init__(self, location: str, store: Store, single: str | None = None) -> None:
        self._location = location
        self._store = store
        self._single = single
        self._weights: WeightFiles = read_weight_files(store, single)
        self._config = self._read_config()
        self._others: tuple[list[str], list[str]] | None = None
        self._closed = False

    @classmethod
    def open(cls, location: str | Path, *, hub_cache: Path | None = None) -> Checkpoint:
        """Open a checkpoint: read its config and the headers of its weight files, and check them.

        Args:
            location: a folder, a single .safetensors file, an fsspec URL of either, or "org/name[@revision]"
                of a model in the local Hugging Face cache. Nothing is downloaded.
            hub_cache: the Hugging Face cache; its usual place if absent.

        Raises:
            UserError: for anything missing, damaged or contradictory, naming file and tensor.
        """
        store, single = locate(location, hub_cache)
        try:
            return cls(str(location), store, single)
        except BaseException:
            store.close()
            raise

    @property
    def location(self) -> str:
        """What was opened, as it was given."""
        return self._location

    @property
    def folder(self) -> Path | None:
        """The folder on this machine, None for a remote checkpoint."""
        return self._store.folder

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json; empty if there is none."""
        return self._config

    @property
    def names(self) -> list[str]:
        """Every tensor's name; numbers in names count as numbers, so layer 2 comes before layer 10."""
        return list(self._weights.tensors)

    @property
    def weight_files(self) -> list[str]:
        """The files that hold the tensors."""
        return list(self._weights.files)

    @property
    def index_file(self) -> str | None:
        """The file that says which shard holds which tensor; None for a single file."""
        return self._weights.index

    @property
    def other_files(self) -> list[str]:
        """The files that make up the model beside its weights: config, tokenizer, code, …"""
        return self._split()[0]

    @property
    def skipped_files(self) -> list[str]:
        """Files that are not carried along: the same weights in other formats."""
        return self._split()[1]

    @property
    def weight_bytes(self) -> int:
        """Bytes on disk of the weight files and their index."""
        files = [*self._weights.files, *([self._weights.index] if self._weights.index else [])]
        return sum(self._store.size(file) for file in files)

    def info(self, name: str) -> TensorInfo:
        """Return where a tensor lies, its type and its shape.

        Raises:
            UserError: if there is no such tensor.
        """
        try:
            return self._weights.tensors[name]
        except KeyError:
            raise UserError(
                f"{self._location} has no tensor {shown(name)}; it has {len(self._weights.tensors)}, "
                f"such as {', '.join(map(shown, self.names[:2])) or 'none'}"
            ) from None

    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return (shape, element type) of every tensor."""
        return {name: (info.shape, info.dtype) for name, info in self._weights.tensors.items()}

    def tensor(self, name: str) -> np.ndarray[Any, Any]:
        """Return a tensor, read-only.

        For a local file it is a view of the file's memory map, which takes no memory of its own (a copy if
        the file lays it out misaligned). BF16 and F8 come as ml_dtypes' types. Types below one byte (F4, F6)
        come as their raw bytes, 1-D uint8.

        Raises:
            UserError: if there is no such tensor or it cannot be read.
        """
        info = self.info(name)
        return self._array(info, info.begin, info.end, info.shape)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Return rows [start, stop) of a tensor along its first axis, as `tensor` does; only they are read.

        Raises:
            UserError: if there is no such tensor or it cannot be read.
            ValueError: if the rows are not within the tensor, or do not start and end on whole bytes.
        """
        info = self.info(name)
        if not info.shape or not 0 <= start <= stop <= info.shape[0]:
            raise ValueError(f"rows {start}:{stop} of tensor {shown(name)} of shape {info.shape}")
        dtype = DTYPES[info.dtype]
        row = info.shape[1:]
        begin = info.begin + dtype.nbytes((start, *row))
        end = info.begin + dtype.nbytes((stop, *row))
        return self._array(info, begin, end, (stop - start, *row))

    def advise_done(self, name: str) -> None:
        """Say that a tensor will not be read again soon, so that its pages stop counting as resident.

        Arrays of it stay valid.
        """
        info = self.info(name)
        self._store.release(info.file, info.begin, info.end)

    def read_other(self, name: str) -> bytes:
        """Return the content of a file that is not a weight file.

        Raises:
            UserError: if it cannot be read.
        """
        self._check_open()
        return bytes(self._store.read(name, 0, self._store.size(name)))

    def stream_other(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file that is not a weight file in pieces, for files of any size.

        Raises:
            UserError: if it cannot be read.
        """
        self._check_open()
        size = self._store.size(name)
        for begin in range(0, size, _PIECE):
            yield bytes(self._store.read(name, begin, min(begin + _PIECE, size)))

    def has_other(self, name: str) -> bool:
        """Tell whether the folder has a file of this name."""
        return self._store.has(name)

    def content_hash(self, progress: Progress = SILENT) -> dict[str, str]:
        """Return the BLAKE3, in hexadecimal, of every file that makes up the model.

        Args:
            progress: advanced by the bytes of each file. A remote checkpoint is fetched whole.
        """
        self._check_open()
        index = [self._weights.index] if self._weights.index else []
        files = sorted({*self._weights.files, *index, *self.other_files}, key=str)
        progress.start("hashing the input", sum(map(self._store.size, files)), "B")
        hashes = {file: self._store.hash(file, progress) for file in files}
        progress.finish()
        return hashes

    def close(self) -> None:
        """Let go of the files. Arrays already handed out stay valid."""
        self._closed = True
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, name: object) -> bool:
        return name in self._weights.tensors

    def __len__(self) -> int:
        return len(self._weights.tensors)

    def __repr__(self) -> str:
        return f"Checkpoint({self._location!r}, {len(self)} tensors, {self.weight_bytes:,} bytes)"

    def _array(self, info: TensorInfo, begin: int, end: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        self._check_open()
        data = self._store.read(info.file, begin, end)
        dtype = DTYPES[info.dtype].numpy
        if dtype is None:
            return data
        array = data.view(dtype).reshape(shape)
        if array.flags.aligned:
            return array
        # Kernels compiled for aligned arrays must not meet another kind.
        copy = array.copy()
        copy.flags.writeable = False
        return copy

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the checkpoint {self._location} is closed")

    def _split(self) -> tuple[list[str], list[str]]:
        if self._others is None:
            if self._single is None:
                self._others = split_others(self._store.files(), self._weights)
            else:
                self._others = ([CONFIG_FILE] if self._store.has(CONFIG_FILE) else [], [])
        return self._others

    def _read_config(self) -> dict[str, Any]:
        if not self._store.has(CONFIG_FILE):
            return {}
        where = f"{self._store.location}/{CONFIG_FILE}"
        try:
            config = json.loads(bytes(self._store.read(CONFIG_FILE, 0, self._store.size(CONFIG_FILE))).decode())
        except (ValueError, RecursionError):
            raise UserError(f"{where} is not valid JSON; download it again") from None
        if not isinstance(config, dict):
            raise UserError(f"{where} is not a JSON object; download it again")
        return config
