"""Any folder Steelyard can read, as the logical float tensors it stands for, by their original names."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from steelyard.codecs import Codec
from steelyard.errors import UserError
from steelyard.formats.entries import read_entries
from steelyard.formats.entry import Entry
from steelyard.formats.gguf.reading import GgufCheckpoint, GgufWeights, gguf_file
from steelyard.weights import Checkpoint


class LogicalCheckpoint:
    """Logical tensors of a plain folder, or of one quantized in any way of `formats.entries.READERS`.

    Use it in a `with` block or call `close`. Only headers are read until a tensor is asked for.

    Attributes:
        checkpoint: the stored tensors.
        entries: how each encoded tensor is stored, by its name.

    Example:
        >>> with LogicalCheckpoint.open("path/to/model") as model:  # doctest: +SKIP
        ...     {name: model.codec(name) for name in model.names}
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.entries: dict[str, Entry] = read_entries(checkpoint)
        parts = {stored for entry in self.entries.values() for stored in entry.stored.values()}
        plain = [name for name in checkpoint.names if name not in parts]
        self._names = [*plain, *self.entries]

    @classmethod
    def open(cls, location: str | Path) -> LogicalCheckpoint:
        """Open a folder, a GGUF file, or anything else `weights.Checkpoint.open` takes.

        Raises:
            UserError: if it is damaged, or quantized in a way that cannot be read.
        """
        if (file := gguf_file(location)) is not None:
            return GgufModel(file, location)
        checkpoint = Checkpoint.open(location)
        try:
            return cls(checkpoint)
        except BaseException:
            checkpoint.close()
            raise

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json without its quantization."""
        return {key: value for key, value in self.checkpoint.config.items() if key != "quantization_config"}

    @property
    def names(self) -> list[str]:
        """Names of the logical tensors."""
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a logical tensor."""
        entry = self.entries.get(name)
        if entry is None:
            return self.checkpoint.info(name).shape
        return entry.shape[::-1] if entry.transposed else entry.shape

    def codec(self, name: str) -> Codec | None:
        """Return the codec of a tensor, None where it is stored as plain numbers."""
        entry = self.entries.get(name)
        return None if entry is None else entry.codec

    def stored_bytes(self, name: str) -> int:
        """Return the bytes of data that stand for a tensor."""
        entry = self.entries.get(name)
        if entry is None:
            return self.checkpoint.info(name).nbytes
        return sum(self.checkpoint.info(stored).nbytes for stored in entry.stored.values())

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor: float32 where it was encoded, else as it is stored.

        Raises:
            UserError: if there is no such tensor, or its parts are not those of its codec.
        """
        entry = self.entries.get(name)
        if entry is None:
            return self.checkpoint.tensor(name)
        weight = entry.codec.decode(self.parts(name), entry.shape)
        return np.ascontiguousarray(weight.T) if entry.transposed else weight

    def parts(self, name: str) -> dict[str, np.ndarray]:
        """Return the parts of an encoded tensor, as its codec has them."""
        return self.entries[name].parts(self.checkpoint)

    def close(self) -> None:
        """Let go of the files."""
        self.checkpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        counts = f"{len(self._names)} tensors, {len(self.entries)} encoded"
        return f"LogicalCheckpoint({self.checkpoint.location!r}, {counts})"


class GgufModel(LogicalCheckpoint):
    """Logical tensors of a GGUF file, alone or in a folder with the files of the Hugging Face model.

    Attributes:
        weights: the file's tensors.
    """

    def __init__(self, file: Path, location: str | Path | None = None) -> None:
        self.weights = GgufWeights(file)
        self.checkpoint = GgufCheckpoint(location or file, file, self.weights)
        self.entries = {}
        self._names = list(self.weights.infos)

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json, or what the keys of the file amount to."""
        return {key: value for key, value in self.weights.config.items() if key != "quantization_config"}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a logical tensor."""
        return self.weights.shape(name)

    def codec(self, name: str) -> Codec | None:
        """Return the type of a tensor's blocks, None where it is stored as plain numbers."""
        return self.weights.codec(name)

    def stored_bytes(self, name: str) -> int:
        """Return the bytes of data that stand for a tensor."""
        return self.weights.infos[name].nbytes

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor: float32 where it was encoded, else as it is stored."""
        if name not in self.weights.infos:
            raise UserError(f"{self.weights.location} has no tensor {name}")
        return self.weights.tensor(name)

    def parts(self, name: str) -> dict[str, np.ndarray]:
        """Return the blocks of an encoded tensor, rows in the order of the model."""
        return self.weights.parts(name)

    def close(self) -> None:
        """Let go of the file."""
        self.checkpoint.close()
        self.weights.close()

    def __repr__(self) -> str:
        return f"GgufModel({self.weights.location!r}, {len(self._names)} tensors)"
