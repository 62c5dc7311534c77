"""One safetensors file of statistics, written array by array without holding them all, read lazily."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import UserError
from steelyard.weights import Checkpoint, read_header

_KEY = "steelyard.calibration"
_DTYPES = {"float32": "F32", "int32": "I32"}


class StatisticsWriter:
    """Collects arrays in a temporary file beside the final one, which appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, dict[str, Any]] = {}
        self._end = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._spill = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed by `finish` or `abort`
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None

    def add(self, name: str, array: np.ndarray) -> None:
        """Append an array of float32 or int32."""
        data = np.ascontiguousarray(array)
        begin = self._end
        self._end += data.nbytes
        self._entries[name] = {
            "dtype": _DTYPES[data.dtype.name],
            "shape": list(data.shape),
            "data_offsets": [begin, self._end],
        }
        try:
            self._spill.write(data.data.cast("B") if data.size else b"")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from None

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write the file, with `about` as its metadata."""
        text = json.dumps(about, sort_keys=True, separators=(",", ":"))
        header = json.dumps({"__metadata__": {_KEY: text}, **self._entries}, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            self._spill.seek(0)
            with open(partial, "wb") as file:
                file.write(len(header).to_bytes(8, "little") + header)
                shutil.copyfileobj(self._spill, file, 1 << 22)
            os.replace(partial, self.path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise UserError(f"cannot write {self.path}: {error.strerror}") from None
        finally:
            self._spill.close()

    def abort(self) -> None:
        """Leave nothing behind."""
        self._spill.close()


def open_statistics(path: str | Path) -> tuple[Checkpoint, dict[str, Any]]:
    """Return the arrays, read when asked for, and what was said about them.

    Raises:
        UserError: if it is missing, damaged or not such a file.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        raise UserError(f"{path}: no such calibration file (a .safetensors file written by Steelyard)")
    size = path.stat().st_size
    with open(path, "rb") as file:

        def read(begin: int, end: int) -> bytes:
            file.seek(begin)
            return file.read(end - begin)

        about = read_header(read, size, str(path)).metadata.get(_KEY)
    if about is None:
        raise UserError(f"{path} is not a calibration file; let Steelyard write one with --calibration")
    try:
        described = json.loads(about)
    except ValueError:
        raise UserError(f"{path} is damaged: its description is not valid JSON; delete it") from None
    return Checkpoint.open(path), described
