"""What may be written where, and what to tell the user when the disk says no."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steelyard.errors import UserError
from steelyard.units import format_size
from steelyard.weights.layout import Layout

STAGED_FOLDER = "model"
JOURNAL_FILE = "journal.jsonl"
# A path loses one of the two slashes of a URL.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_FULL = {errno.ENOSPC, errno.EDQUOT}


class DiskFullError(UserError):
    """The file system, or the user's share of it, is full."""


def staging_folder(out: str | Path) -> Path:
    """Return where an output is staged: a hidden folder beside it, on the same file system."""
    path = Path(out)
    return path.parent / f".{path.name}.partial"


def check_output(out: str | Path, source: str | Path | None = None, resume: bool = False) -> Path:
    """Check, before any work, that a folder can be written; return its absolute path.

    Args:
        out: the folder to be; it must not exist, its parents may be missing.
        source: the folder that is read, if it is local; nothing is ever written into it.
        resume: whether an earlier, unfinished run may be continued.

    Raises:
        UserError: if it exists, lies within the source, cannot be written, or holds an unfinished run
            that `resume` does not allow to continue.
    """
    if _URL.match(str(out)):
        raise UserError(f"{out}: outputs are written to local folders; choose a local --out")
    path = Path(os.path.expanduser(out)).absolute()
    if not path.name or path.name in {".", ".."}:
        raise UserError(f"{out} does not name a new folder; choose another --out")
    path = path.parent.resolve() / path.name
    if source is not None:
        inside = Path(source).resolve()
        if path == inside or inside in path.parents:
            raise UserError(f"{out} lies within the input {source}, which is never changed; choose another --out")
    if os.path.lexists(path):
        nothing = ", so there is nothing to resume" if resume else ""
        raise UserError(f"{out} already exists{nothing}; choose another --out or remove it")
    staging = staging_folder(path)
    if not resume and os.path.exists(staging / STAGED_FOLDER):
        raise UserError(f"{staging} is left from an unfinished run; add --resume to continue it, or remove it")
    parent = next(folder for folder in path.parents if os.path.exists(folder))
    if not parent.is_dir():
        raise UserError(f"{parent} is not a folder; choose another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{parent} is read-only for this user; choose another --out")
    return path


def check_space(out: Path, layout: Layout) -> None:
    """Check that the file system holds what of a layout is still to be written.

    Args:
        out: the folder to be.
        layout: its weight files; those of an unfinished run count as far as they occupy the disk.

    Raises:
        UserError: if it does not.
    """
    folder = staging_folder(out) / STAGED_FOLDER
    staged = [folder / file.name for file in layout.files]
    present = sum(path.stat().st_blocks * 512 for path in staged if path.is_file())
    free = _free(out)
    if layout.total_bytes - present > free:
        raise DiskFullError(_too_small(out, layout.total_bytes, free))


@contextmanager
def disk_errors(out: Path, needed: int) -> Iterator[None]:
    """Turn what the operating system raises on writing into one clear line.

    Args:
        out: the folder to be.
        needed: bytes of the whole output.

    Raises:
        UserError: for every OSError; DiskFullError for those that mean a full disk.
    """
    try:
        yield
    except OSError as error:
        path = error.filename or out
        if error.errno in _FULL:
            raise DiskFullError(_too_small(out, needed, _free(out))) from None
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --out") from None


def _free(out: Path) -> int:
    """Return the bytes free on the file system that will hold `out`."""
    return shutil.disk_usage(next(folder for folder in out.parents if os.path.exists(folder))).free


def _too_small(out: Path, needed: int, free: int) -> str:
    return (
        f"no space for {out}: it takes {needed:,} bytes ({format_size(needed)}), {format_size(free)} are free; "
        "free some space or choose another --out"
    )
