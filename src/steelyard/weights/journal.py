"""Which tensors of a staged folder are complete: one appended line each, so that a killed run can go on."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.errors import UserError

_FORMAT = 1
_SYNC_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Finished:
    """One line of the journal: a tensor whose bytes are all on their way to the disk, and their BLAKE3."""

    blake3: str
    nbytes: int


class Journal:
    """The journal of one staging folder; holds a lock, so only one run at a time can write there.

    Lines may outlive the data they speak of (after a power cut), so a reader checks the hash before it
    trusts one. That is also why the journal itself need not be synced at every line.

    Args:
        path: of the journal; created if absent.

    Raises:
        UserError: if another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise UserError(
                f"another run is writing to {path.parent}; wait for it or choose another --out"
            ) from None
        except OSError:
            pass  # a network file system without locks: nothing to hold
        self._synced = time.monotonic()
        self.plan: str | None = None
        self.finished: dict[str, Finished] = {}
        self._load()

    def begin(self, plan: str) -> None:
        """Empty the journal and state which plan its lines will belong to."""
        os.ftruncate(self._file, 0)
        self.plan, self.finished = plan, {}
        self._append({"format": _FORMAT, "plan": plan})
        os.fsync(self._file)

    def add(self, name: str, finished: Finished) -> None:
        """Record that a tensor is complete."""
        with self._lock:
            self._append({"tensor": name, "blake3": finished.blake3, "nbytes": finished.nbytes})
            self.finished[name] = finished
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()

    def close(self) -> None:
        """Let go of the file and its lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, line: dict[str, Any]) -> None:
        data = (json.dumps(line) + "\n").encode()
        written = os.write(self._file, data)
        if written != len(data):  # a nearly full disk: the torn line is dropped by the next reader
            os.write(self._file, data[written:])

    def _load(self) -> None:
        """Read the lines up to the first that is torn, and cut the file there."""
        data = self._path.read_bytes()
        valid = 0
        for number, line in enumerate(data.splitlines(keepends=True)):
            try:
                record = json.loads(line)
                if not line.endswith(b"\n"):
                    break
                if number == 0:
                    if record["format"] != _FORMAT:
                        break
                    self.plan = str(record["plan"])
                else:
                    self.finished[str(record["tensor"])] = Finished(str(record["blake3"]), int(record["nbytes"]))
            except (ValueError, KeyError, TypeError):
                break
            valid += len(line)
        os.ftruncate(self._file, valid)
