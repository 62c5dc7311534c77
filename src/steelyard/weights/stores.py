"""Where a checkpoint's bytes come from: one small protocol, and its implementation for local folders."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from steelyard.errors import UserError
from steelyard.progress import Progress
from steelyard.weights.hashing import file_hash

ByteArray = np.ndarray[Any, np.dtype[np.uint8]]


class Store(Protocol):
    """A folder of files, somewhere. File names are relative, with forward slashes."""

    @property
    def location(self) -> str:
        """What messages call the folder."""

    @property
    def folder(self) -> Path | None:
        """The folder on this machine, None if it is elsewhere."""

    def files(self) -> list[str]:
        """Return every file below the folder in order of name, hidden ones left out."""

    def top(self) -> list[str]:
        """Return the files directly in the folder, in order of name."""

    def has(self, file: str) -> bool:
        """Tell whether a file is there."""

    def size(self, file: str) -> int:
        """Return a file's size in bytes."""

    def read(self, file: str, begin: int, end: int) -> ByteArray:
        """Return bytes [begin, end) of a file, read-only; a view of a memory map where that is possible."""

    def release(self, file: str, begin: int, end: int) -> None:
        """Say that bytes [begin, end) will not be read again soon, so that their memory can be used."""

    def hash(self, file: str, progress: Progress) -> str:
        """Return a file's BLAKE3 in hexadecimal, advancing `progress` by its bytes."""

    def close(self) -> None:
        """Let go of what was opened."""


class LocalStore:
    """A folder on this machine, read through memory maps that are opened on first use.

    Pages of a memory map belong to the file: they count as cache, not as memory of the process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: dict[str, mmap.mmap] = {}

    @property
    def location(self) -> str:
        """The folder's path as it was given."""
        return str(self._folder)

    @property
    def folder(self) -> Path | None:
        """The folder's path."""
        return self._folder

    def files(self) -> list[str]:
        """Return every file below the folder; links to files are followed, links to folders are not."""
        found: list[str] = []
        for parent, folders, files in os.walk(self._folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            relative = Path(parent).relative_to(self._folder)
            found += [(relative / name).as_posix() for name in files if not name.startswith(".")]
        return sorted(found)

    def top(self) -> list[str]:
        """Return the files directly in the folder, in order of name."""
        try:
            return sorted(entry.name for entry in os.scandir(self._folder) if entry.is_file())
        except OSError as error:
            raise UserError(f"cannot read {self._folder}: {error.strerror}") from None

    def has(self, file: str) -> bool:
        """Tell whether a file is there; a link whose target is gone is not."""
        return os.path.isfile(self._folder / file)

    def size(self, file: str) -> int:
        """Return a file's size in bytes."""
        return self._stat(file).st_size

    def read(self, file: str, begin: int, end: int) -> ByteArray:
        """Return a read-only view of bytes [begin, end); it stays valid after `close`."""
        if begin == end:
            return np.frombuffer(b"", np.uint8)
        return np.frombuffer(self._map(file), np.uint8, end - begin, begin)

    def release(self, file: str, begin: int, end: int) -> None:
        """Drop the pages of bytes [begin, end) from this process; reading them again brings them back."""
        if begin < end and hasattr(mmap, "MADV_DONTNEED"):
            first = begin // mmap.PAGESIZE * mmap.PAGESIZE
            self._map(file).madvise(mmap.MADV_DONTNEED, first, end - first)

    def hash(self, file: str, progress: Progress) -> str:
        """Return a file's BLAKE3 in hexadecimal, advancing `progress` by its bytes."""
        digest = file_hash(self._folder / file)
        progress.advance(self.size(file))
        return digest

    def close(self) -> None:
        """Close the memory maps; one that arrays still look into is closed with the last of them."""
        for opened in self._maps.values():
            try:
                opened.close()
            except BufferError:
                continue
        self._maps.clear()

    def _stat(self, file: str) -> os.stat_result:
        try:
            return os.stat(self._folder / file)
        except OSError as error:
            raise UserError(f"cannot read {self._folder / file}: {error.strerror}") from None

    def _map(self, file: str) -> mmap.mmap:
        if file not in self._maps:
            try:
                with open(self._folder / file, "rb") as stream:
                    self._maps[file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise UserError(f"cannot read {self._folder / file}: {error.strerror}") from None
        return self._maps[file]
