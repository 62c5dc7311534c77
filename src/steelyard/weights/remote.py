"""Checkpoints behind an fsspec URL: only the bytes asked for travel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from steelyard.errors import UserError
from steelyard.progress import Progress
from steelyard.weights.stores import ByteArray

_CHUNK = 1 << 26


class RemoteStore:
    """A folder behind an fsspec URL such as "s3://bucket/model" or "memory://model".

    Nothing is kept: every read is a range request of its own.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self._url = url.rstrip("/")
        with self._errors(self._url):
            self._system, root = url_to_fs(self._url)
        self._root = str(root).rstrip("/")
        self._sizes: dict[str, int] = {}

    @property
    def location(self) -> str:
        """The URL."""
        return self._url

    @property
    def folder(self) -> Path | None:
        """None: it is not on this machine."""
        return None

    def files(self) -> list[str]:
        """Return every file below the folder in order of name, hidden ones left out."""
        with self._errors(self._url):
            found = [self._relative(path) for path in self._system.find(self._root)]
        return sorted(file for file in found if not any(part.startswith(".") for part in file.split("/")))

    def top(self) -> list[str]:
        """Return the files directly in the folder, in order of name."""
        with self._errors(self._url):
            entries: list[dict[str, Any]] = self._system.ls(self._root, detail=True)
        return sorted(self._relative(entry["name"]) for entry in entries if entry["type"] == "file")

    def has(self, file: str) -> bool:
        """Tell whether a file is there."""
        with self._errors(self._path(file)):
            return bool(self._system.isfile(self._path(file)))

    def size(self, file: str) -> int:
        """Return a file's size in bytes."""
        if file not in self._sizes:
            with self._errors(f"{self._url}/{file}"):
                size = self._system.info(self._path(file))["size"]
            if size is None:
                raise UserError(f"{self._url}/{file}: the server does not say how large it is; download it first")
            self._sizes[file] = int(size)
        return self._sizes[file]

    def read(self, file: str, begin: int, end: int) -> ByteArray:
        """Fetch bytes [begin, end) of a file; the array is read-only."""
        if begin == end:
            return np.frombuffer(b"", np.uint8)
        with self._errors(f"{self._url}/{file}"):
            data = self._system.cat_file(self._path(file), start=begin, end=end)
        if len(data) != end - begin:
            raise UserError(
                f"{self._url}/{file}: got {len(data):,} of the {end - begin:,} bytes asked for; try again"
            )
        return np.frombuffer(data, np.uint8)

    def release(self, file: str, begin: int, end: int) -> None:
        """Do nothing: nothing is kept."""

    def hash(self, file: str, progress: Progress) -> str:
        """Return a file's BLAKE3 in hexadecimal; the whole file travels, in pieces."""
        digest = blake3()
        for begin in range(0, self.size(file), _CHUNK):
            piece = self.read(file, begin, min(begin + _CHUNK, self.size(file)))
            digest.update(piece.data)
            progress.advance(piece.nbytes)
        return digest.hexdigest()

    def close(self) -> None:
        """Do nothing: nothing is kept open."""

    def _path(self, file: str) -> str:
        return f"{self._root}/{file}" if self._root else file

    def _relative(self, path: str) -> str:
        # Some file systems answer with a leading slash that their own root lacks.
        return path.lstrip("/").removeprefix(self._root.lstrip("/")).lstrip("/")

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn what the many file systems raise into one clear line."""
        try:
            yield
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"{what} does not exist") from None
        except ImportError as error:
            raise UserError(f"cannot open {what}: {error}") from None
        except Exception as error:  # each file system brings exceptions of its own
            text = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"cannot read {what}: {text}") from None
