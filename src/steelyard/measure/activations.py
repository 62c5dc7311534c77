"""Hidden states between blocks: in memory up to a limit, beyond it in a temporary file."""

from __future__ import annotations

import tempfile
from io import BufferedRandom
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    import torch

DEFAULT_LIMIT = 1 << 30


class ActivationStore:
    """Float32 tensors by key; use it in a `with` block.

    Args:
        limit: bytes kept in memory; what comes later goes to a temporary file, which is gone afterwards.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._used = 0
        self._memory: dict[object, torch.Tensor] = {}
        self._spilled: dict[object, tuple[int, tuple[int, ...]]] = {}
        self._file: BufferedRandom | None = None
        self._end = 0

    def put(self, key: object, value: torch.Tensor) -> None:
        """Keep a tensor; one of the same key is replaced."""
        value = value.detach()
        old = self._memory.pop(key, None)
        if old is not None:
            self._used -= old.nbytes
        if key not in self._spilled and self._used + value.nbytes <= self._limit:
            self._memory[key] = value
            self._used += value.nbytes
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="steelyard-")  # noqa: SIM115 - closed by `close`
        begin, shape = self._spilled.get(key, (self._end, tuple(value.shape)))
        if shape != tuple(value.shape):
            begin = self._end
        if begin == self._end:
            self._end += value.nbytes
        self._file.seek(begin)
        self._file.write(value.contiguous().numpy().data)
        self._spilled[key] = (begin, tuple(value.shape))

    def get(self, key: object) -> torch.Tensor:
        """Return the tensor; not to be written into."""
        import torch

        if key in self._memory:
            return self._memory[key]
        begin, shape = self._spilled[key]
        assert self._file is not None
        array = np.empty(shape, dtype=np.float32)
        self._file.seek(begin)
        self._file.readinto(array.data.cast("B"))
        return torch.from_numpy(array)

    def drop(self, key: object) -> None:
        """Forget a tensor."""
        old = self._memory.pop(key, None)
        if old is not None:
            self._used -= old.nbytes
        self._spilled.pop(key, None)

    def close(self) -> None:
        """Forget everything."""
        self._memory.clear()
        self._spilled.clear()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
