"""What is merged: models that hand out runs of entries of their tensors, however they are stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from steelyard.codecs import Parts
from steelyard.codecs.by_rows import RowCodec, slice_parts
from steelyard.edits.merge.dialect import ModelReference
from steelyard.formats.conversion import spec_of
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.jobs import resolve
from steelyard.spec import ModelSpec
from steelyard.weights import Checkpoint, bytes_hash

Reader = Callable[[int, int], np.ndarray]
"""Returns entries [start, stop) of one flattened tensor, in the type it is stored in; called from threads."""


class InputModel(Protocol):
    """A model that can be merged. Wrappers (an adapter applied, embeddings put in another order) are models too.

    Attributes:
        label: what messages call it.
        config: content of config.json without quantization.
        spec: what it is.
    """

    label: str
    config: Mapping[str, Any]
    spec: ModelSpec

    @property
    def checkpoint(self) -> Checkpoint:
        """The files it is read from, for what is carried along beside the weights."""

    @property
    def names(self) -> list[str]:
        """Every tensor by name."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""

    def dtype(self, name: str) -> str:
        """Return the safetensors type a tensor counts as: as stored, or that the model loads encoded ones in."""

    def reader(self, name: str) -> Reader:
        """Return what reads a tensor; it may hold memory until it is let go of."""

    def resident(self, name: str) -> int:
        """Return the bytes of memory that a tensor's reader holds; 0 for a view of the file."""

    def done(self, name: str) -> None:
        """Say that a tensor will not be read again."""

    def identity(self) -> str:
        """Return a hash that changes with the model, from the headers, sizes and times of its files."""

    def close(self) -> None:
        """Let go of the files."""


class StoredModel:
    """A folder, a GGUF file or anything else that `LogicalCheckpoint` reads."""

    def __init__(self, label: str, logical: LogicalCheckpoint) -> None:
        self.label = label
        self.config: Mapping[str, Any] = logical.config
        self.spec = spec_of(logical)
        self._logical = logical
        self._names = frozenset(logical.names)

    @classmethod
    def open(cls, location: str, label: str = "") -> StoredModel:
        """Open a model and read its headers.

        Raises:
            UserError: for anything missing, damaged or contradictory.
        """
        logical = LogicalCheckpoint.open(resolve(location))
        try:
            return cls(label or location, logical)
        except BaseException:
            logical.close()
            raise

    @property
    def checkpoint(self) -> Checkpoint:
        """The files it is read from."""
        return self._logical.checkpoint

    @property
    def names(self) -> list[str]:
        """Every tensor by name."""
        return self._logical.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._logical.shape(name)

    def dtype(self, name: str) -> str:
        """Return the safetensors type a tensor counts as."""
        return self.spec.tensors[self.spec.ties.get(name, name)].dtype

    def reader(self, name: str) -> Reader:
        """Return what reads a tensor: a view of the file, decoded rows, or the whole tensor decoded."""
        codec = self._by_rows(name)
        if codec is not None:
            return _RowReader(codec, self._logical.parts(name), self.shape(name))
        flat = self._logical.tensor(name).reshape(-1)
        return lambda start, stop: flat[start:stop]

    def resident(self, name: str) -> int:
        """Return the bytes a reader holds: what was fetched, the codes, or the tensor decoded in float32."""
        if self._logical.codec(name) is None:
            return 0 if self.checkpoint.folder is not None else self._logical.stored_bytes(name)
        if self._by_rows(name) is not None:
            return self._logical.stored_bytes(name)
        return 4 * int(np.prod(self.shape(name), dtype=np.int64))

    def _by_rows(self, name: str) -> RowCodec | None:
        """Return the codec of a tensor whose rows can be decoded apart from the others."""
        entry = self._logical.entries.get(name)
        if entry is None or entry.transposed or not isinstance(entry.codec, RowCodec):
            return None
        return entry.codec if entry.codec.row_quantum is not None else None

    def done(self, name: str) -> None:
        """Let the pages of a tensor go."""
        if self._logical.codec(name) is None:
            self._logical.checkpoint.advise_done(name)

    def identity(self) -> str:
        """Return a hash of the headers, sizes and times of the weight files."""
        checkpoint = self._logical.checkpoint
        found: list[Any] = [sorted((name, *map(str, info)) for name, info in checkpoint.shapes().items())]
        folder = checkpoint.folder
        for file in checkpoint.weight_files:
            if folder is not None:
                stat = (folder / file).stat()
                found.append((file, stat.st_size, stat.st_mtime_ns))
        return bytes_hash(repr((found, sorted(self.config.items(), key=str))).encode())

    def close(self) -> None:
        """Let go of the files."""
        self._logical.close()

    def __contains__(self, name: object) -> bool:
        return name in self._names


@dataclass(frozen=True)
class _RowReader:
    """Reads an encoded matrix: decodes the blocks of rows that hold the entries asked for, and no others."""

    codec: RowCodec
    parts: Parts
    shape: tuple[int, ...]

    def __call__(self, start: int, stop: int) -> np.ndarray:
        rows, columns = self.shape
        quantum = self.codec.row_quantum
        assert quantum is not None
        first = start // columns // quantum * quantum
        last = min(-(-stop // (columns * quantum)) * quantum, rows)
        parts = slice_parts(self.codec, self.parts, first, last)
        decoded = self.codec.decode(parts, (last - first, columns)).reshape(-1)
        return decoded[start - first * columns : stop - first * columns]


@dataclass(frozen=True)
class Opener:
    """Opens what references name.

    Attributes:
        adapt: applies an adapter: takes the model, the adapter's location and a label, and returns a model.
        places: folders that stand for names, such as results of earlier documents.
    """

    adapt: Callable[[InputModel, str, str], InputModel]
    places: Mapping[str, str]

    def open(self, reference: ModelReference) -> InputModel:
        """Open a model, with its adapter applied if it has one.

        Raises:
            UserError: if it is not there, or cannot be read.
        """
        location = self.places.get(reference.path, reference.location)
        model = StoredModel.open(location, str(reference))
        if reference.lora_location is None:
            return model
        try:
            return self.adapt(model, reference.lora_location, str(reference))
        except BaseException:
            model.close()
            raise
