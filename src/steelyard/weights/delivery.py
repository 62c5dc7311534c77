"""Folders that are made here and go to an fsspec URL.

A store of objects has no folders to rename. So files go to their final names, and last of all `config.json`,
without which nothing takes the folder for a model: until it is there, the model is not. Stores that keep a tree of
folders receive everything under a hidden name, which becomes the final one in one step.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress

# A path loses one of the two slashes of a URL.
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?P<rest>.*)", re.DOTALL)
_LOCAL = frozenset({"file", "local"})
# Where a folder is renamed at once, whatever it holds.
_TREES = frozenset({"sftp", "ssh", "smb", "hdfs", "arrow_hdfs", "webhdfs"})
_LAST = "config.json"
_PIECE = 1 << 24


def url_of(out: str | Path) -> str | None:
    """Return the URL that an output names; None for a local folder.

    Example:
        >>> url_of("s3://bucket/model/"), url_of(Path("s3://bucket/model")), url_of("file:///tmp/model")
        ('s3://bucket/model', 's3://bucket/model', None)
    """
    match = _URL.fullmatch(str(out))
    if match is None or match["scheme"] in _LOCAL:
        return None
    return f"{match['scheme']}://{match['rest'].rstrip('/')}"


def local_of(out: str | Path) -> Path:
    """Return the local folder that an output names, which may be a `file://` URL."""
    match = _URL.fullmatch(str(out))
    if match is None:
        return Path(out)
    rest = match["rest"]
    return Path(rest if str(out).startswith(f"{match['scheme']}://") else f"/{rest}")


class Delivery:
    """A folder on its way to a URL.

    Args:
        url: the folder to be.
        stage: local folder in which it is made; the current one if absent.
        resume: continue an interrupted run: a folder that is finished here is only sent, files that are there whole
            are not sent again.

    Raises:
        UserError: if the store cannot be reached, or has something under that name.
    """

    def __init__(self, url: str, stage: str | Path | None = None, resume: bool = False) -> None:
        self._url, self._resume = url, resume
        name = url.rpartition("/")[2]
        if not name:
            raise UserError(f"{url} does not name a new folder; choose another --out")
        self._place = Path(os.path.expanduser(stage or ".")).absolute() / f".{name}.delivery"
        self.folder = self._place / name
        with self._errors():
            from fsspec.core import url_to_fs

            self._system, root = url_to_fs(url)
            self._root = str(root).rstrip("/")
            taken = self._system.exists(f"{self._root}/{_LAST}") if resume else self._system.exists(self._root)
        if taken:
            nothing = ", so there is nothing to resume" if resume else ""
            raise UserError(f"{url} already exists{nothing}; choose another --out or remove it")
        if not resume and self._place.is_dir() and any(self._place.iterdir()):
            raise UserError(
                f"{self._place} is left from an unfinished run; add --resume to continue it, or remove it"
            )
        scheme = url.partition("://")[0]
        parent, _, last = self._root.rpartition("/")
        self._target = f"{parent}/.{last}.partial" if scheme in _TREES else self._root

    @property
    def made(self) -> bool:
        """Whether an interrupted run made the folder and did not send all of it."""
        return self._resume and self.folder.is_dir()

    def send(self, progress: Progress = SILENT) -> str:
        """Send the finished folder, and remove it here.

        Args:
            progress: advanced by bytes.

        Returns:
            The URL.

        Raises:
            UserError: if the store does not take it; the folder then stays here, for `resume`.
        """
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        files.sort(key=lambda path: path.relative_to(self.folder).as_posix() == _LAST)
        progress.start("sending", sum(path.stat().st_size for path in files), "B")
        with self._errors():
            for path in files:
                self._send(path, f"{self._target}/{path.relative_to(self.folder).as_posix()}", progress)
            if self._target != self._root:
                self._system.mv(self._target, self._root, recursive=True)
        progress.finish()
        shutil.rmtree(self._place)
        return self._url

    def _send(self, path: Path, target: str, progress: Progress) -> None:
        size = path.stat().st_size
        if not (self._resume and self._size(target) == size):
            self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
            with path.open("rb") as source, self._system.open(target, "wb") as sink:
                while piece := source.read(_PIECE):
                    sink.write(piece)
            if self._size(target) != size:
                raise UserError(
                    f"{target}: {self._size(target):,} of {size:,} bytes arrived; run again with --resume"
                )
        progress.advance(size)

    def _size(self, target: str) -> int:
        if not self._system.exists(target):
            return -1
        info: dict[str, Any] = self._system.info(target)
        return int(info.get("size") or 0)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the many file systems raise into one clear line."""
        try:
            yield
        except UserError:
            raise
        except ImportError as error:
            raise UserError(f"cannot write {self._url}: {error}") from None
        except Exception as error:  # each file system brings exceptions of its own
            text = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"cannot write {self._url}: {text}") from None
