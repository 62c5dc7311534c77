"""`steelyard.json`: what was asked, planned and proved, beside the weights it is about.

Nothing in it depends on the clock or the machine's load: the same recipe, seed and inputs give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import steelyard
from steelyard.errors import UserError

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


def read(path: Path) -> Mapping[str, Any]:
    """Return the sections of a folder's record.

    Raises:
        UserError: if it is damaged.
    """
    try:
        found = json.loads(path.read_bytes())
        if all(isinstance(found[section], dict) for section in ("plan", "inputs", "outputs", "errors")):
            return dict(found)
        reason = "a section is not a mapping"
    except KeyError as error:
        reason = f"section {error} is missing"
    except (ValueError, TypeError, OSError) as error:
        reason = str(error)
    raise UserError(f"{path} is damaged ({reason}); nothing can be verified without it: make the folder again")
