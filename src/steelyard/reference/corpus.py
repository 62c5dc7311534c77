"""The corpus of the reference model: the Python standard library's own sources, found on the machine.

Files are split by a hash of their path relative to the library, so that the same file lies in the same split on
every machine, whatever its Python version.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steelyard.errors import UserError

Split = Literal["train", "calibration", "held-out"]
SPLITS: tuple[Split, ...] = ("train", "calibration", "held-out")

_EXCLUDED = {"site-packages", "dist-packages"}
_LARGEST_FILE = 400_000
_CALIBRATION_SHARE = 0.04
_HELD_OUT_SHARE = 0.04


@dataclass(frozen=True)
class SourceFile:
    """One file of the corpus: its path relative to the library, with forward slashes, and its text."""

    name: str
    text: str


def library() -> Path:
    """Return the folder of the standard library's sources."""
    return Path(sysconfig.get_paths()["stdlib"])


def split_of(name: str) -> Split:
    """Return the split that the file of this relative path belongs to."""
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    if share < _CALIBRATION_SHARE:
        return "calibration"
    return "held-out" if share < _CALIBRATION_SHARE + _HELD_OUT_SHARE else "train"


def files(split: Split, root: Path | None = None) -> list[SourceFile]:
    """Return the readable `*.py` files of a split, sorted by path.

    Args:
        split: which of them.
        root: folder searched; None for the standard library.

    Left out: installed packages, files above 400 kB (generated tables), empty files and those not in UTF-8.

    Raises:
        UserError: if the library's sources are not on this machine.
    """
    base = root or library()
    found: list[SourceFile] = []
    for path in sorted(base.rglob("*.py")):
        relative = path.relative_to(base)
        name = relative.as_posix()
        if _EXCLUDED & set(relative.parts) or split_of(name) != split or path.stat().st_size > _LARGEST_FILE:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip():
            found.append(SourceFile(name, text))
    if not found:
        raise UserError(f"no Python sources in {base}; install the standard library's sources")
    return found
