"""`steelyard.json`: what was asked, planned and proved, beside the weights it is about.

Nothing in it depends on the clock or the machine's load: the same recipe, seed and inputs give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import steelyard

FILE_NAME = "steelyard.json"
_PACKAGES = ("numpy", "numba", "scipy", "torch", "transformers", "compressed-tensors")


def versions() -> dict[str, str]:
    """Return the versions of Steelyard and of what its numbers depend on."""
    found = {"steelyard": steelyard.__version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def document(**sections: Any) -> bytes:
    """Return the file's bytes from its sections."""
    return (json.dumps(sections, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read(data: bytes) -> Mapping[str, Any]:
    """Return the sections of the file's bytes."""
    found: Mapping[str, Any] = json.loads(data)
    return found
