"""The folder in which an output grows: preallocated files, a journal, and the rename at the end."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from steelyard.errors import UserError
from steelyard.weights.journal import Journal
from steelyard.weights.layout import INDEX_FILE, Layout
from steelyard.weights.output import JOURNAL_FILE, STAGED_FOLDER, staging_folder

# Advice about less than this costs more than it brings.
_FLUSH_FROM = 1 << 18


class Staging:
    """`.<name>.partial` beside an output: the model folder as it grows, and the journal next to it.

    Weight files get their full size and their headers at once, so a full disk shows at the start, and
    tensors may be written in any order.

    Args:
        out: the folder to be, absolute.
        layout: its weight files.
        plan_hash: names the work.

    Raises:
        UserError: if it holds the work of another plan, or another run is writing to it.
        OSError: as the operating system raises it.
    """

    def __init__(self, out: Path, layout: Layout, plan_hash: str) -> None:
        self._out = out
        self._layout = layout
        self._files: dict[str, int] = {}
        self.path = staging_folder(out)
        self.folder = self.path / STAGED_FOLDER
        out.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(exist_ok=True)
        self.journal = Journal(self.path / JOURNAL_FILE)
        try:
            self._begin(_plan(layout, plan_hash))
        except BaseException:
            self.close(keep=bool(self.journal.finished))
            raise

    def write(self, file: str, data: memoryview, offset: int) -> None:
        """Write bytes into a weight file, `offset` bytes from its start."""
        descriptor = self._files[file]
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written

    def flush(self, file: str, begin: int, nbytes: int) -> None:
        """Start to bring bytes just written to the disk, without waiting.

        On Linux this advice starts the transfer of dirty pages, and drops none that are still on their way.
        The sync at the end then finds little left to do.
        """
        if nbytes >= _FLUSH_FROM and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._files[file], begin, nbytes, os.POSIX_FADV_DONTNEED)

    def hash(self, file: str, begin: int, nbytes: int) -> str:
        """Return the BLAKE3 of bytes that lie in a weight file now."""
        if not nbytes:
            return blake3().hexdigest()
        first = begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        with (
            mmap.mmap(self._files[file], begin - first + nbytes, access=mmap.ACCESS_READ, offset=first) as mapped,
            memoryview(mapped) as view,
            view[begin - first :] as region,
        ):
            return blake3(region).hexdigest()

    def put(self, relative: str, pieces: Iterable[bytes]) -> None:
        """Write a file that holds no weights."""
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as stream:
            for piece in pieces:
                stream.write(piece)

    def sync(self) -> None:
        """Bring every file and folder to the disk."""
        for parent, _, files in os.walk(self.folder):
            for path in [*(os.path.join(parent, file) for file in files), parent]:
                _sync(path)

    def publish(self) -> None:
        """Give the model folder its final name."""
        os.rename(self.folder, self._out)
        _sync(self._out.parent)

    def close(self, keep: bool) -> None:
        """Let go of the files; remove what was staged unless it is to be kept."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        if not keep:
            shutil.rmtree(self.path, ignore_errors=True)
        # Only now: the journal's lock keeps other runs out of the folder.
        self.journal.close()

    def _begin(self, plan: str) -> None:
        usable = self.folder.exists() and self.journal.finished
        if usable and self.journal.plan != plan:
            raise UserError(
                f"{self.path} holds an unfinished run of other weights or with other options; repeat that run or "
                "remove it"
            )
        if not usable or self.journal.plan is None:
            # Nothing was finished yet, or an earlier run was killed just after its rename.
            shutil.rmtree(self.folder, ignore_errors=True)
            self.journal.begin(plan)
        self.folder.mkdir(exist_ok=True)
        self._drop_strangers()
        for file in self._layout.files:
            descriptor = os.open(self.folder / file.name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._files[file.name] = descriptor
            _reserve(descriptor, file.size)
            self.write(file.name, memoryview(file.header), 0)
        if self._layout.index is not None:
            self.put(INDEX_FILE, [self._layout.index])

    def _drop_strangers(self) -> None:
        """Remove what an earlier run put there beside the weights; this run writes its own."""
        weights = {file.name for file in self._layout.files}
        for entry in list(os.scandir(self.folder)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif entry.name not in weights:
                os.unlink(entry.path)


def _plan(layout: Layout, plan_hash: str) -> str:
    """Name the work: what the caller says it is, and where every byte of it goes."""
    digest = blake3(plan_hash.encode())
    for file in layout.files:
        digest.update(file.name.encode() + b"\0" + file.header)
    return digest.hexdigest()


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its size, with the blocks behind it where the system can promise them."""
    os.ftruncate(descriptor, size)
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:  # not offered by this file system
                raise


def _sync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
