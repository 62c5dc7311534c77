"""BLAKE3 of files and arrays: how inputs and outputs are named by content."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from steelyard.errors import UserError

# Below this, starting threads costs more than it saves.
_THREADED_FROM = 1 << 22


def file_hash(path: str | Path) -> str:
    """Return the BLAKE3 of a file, in hexadecimal, read through a memory map with every core.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        threads = blake3.AUTO if os.path.getsize(path) >= _THREADED_FROM else 1
        return blake3(max_threads=threads).update_mmap(path).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def array_hash(array: np.ndarray[Any, Any]) -> str:
    """Return the BLAKE3 of a C-contiguous array's bytes, in hexadecimal, on one core."""
    return blake3(raw_bytes(array)).hexdigest()


def bytes_hash(data: bytes | memoryview) -> str:
    """Return the BLAKE3 of some bytes, in hexadecimal."""
    return blake3(data).hexdigest()


def data_hash(data: Any) -> str:
    """Return the BLAKE3 of plain data, in hexadecimal; the order of keys does not count."""
    return bytes_hash(json.dumps(data, sort_keys=True).encode())


def raw_bytes(array: np.ndarray[Any, Any]) -> memoryview:
    """Return a C-contiguous array's bytes without copying; types numpy cannot export included."""
    return array.reshape(-1).view(np.uint8).data
