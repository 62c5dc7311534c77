"""kill -9: before, in the middle of and after every operation; then `resume` gives the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from writing import image, job

from steelyard.errors import UserError

OPERATIONS = [
    "open",
    "mkdir",
    "write",
    "pwrite",
    "ftruncate",
    "posix_fallocate",
    "fsync",
    "rename",
    "unlink",
    "rmdir",
]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(fatal: int) -> Callable[[], int]:
    """Make the `fatal`-th operation on the disk the last; of a write, half is still done."""
    count = 0

    def armed(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == fatal:
                if name in {"write", "pwrite"}:
                    descriptor, data, *rest = arguments
                    original(descriptor, data[: len(data) // 2], *rest)
                die()
            return original(*arguments, **options)

        return operation

    for name in OPERATIONS:
        setattr(os, name, armed(name, getattr(os, name)))
    return lambda: count


def killed_at(fatal: int, out: Path) -> bool:
    """Run the job in a child that dies at the given operation; tell whether it did."""
    child = os.fork()
    if child == 0:
        try:
            arm(fatal)
            job(out, resume=True)
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def test_killed_at_every_operation_then_resumed(tmp_path: Path) -> None:
    expected = image(job(tmp_path / "expected"))
    out = tmp_path / "out"
    fatal = 1
    while killed_at(fatal, out):
        fatal += 1
        if out.exists():  # after the rename: complete, and not to be touched again
            assert image(out) == expected
            with pytest.raises(UserError, match="nothing to resume"):
                job(out, resume=True)
            shutil.rmtree(out)
            assert image(job(out)) == expected  # what the killed run left behind stands in nobody's way
        else:
            assert image(job(out, resume=True)) == expected
        shutil.rmtree(out)
        assert os.listdir(tmp_path) == ["expected"]
    assert fatal > 40  # the job has that many operations, and each was the last one once
    assert image(out) == expected


def test_killed_again_and_again(tmp_path: Path) -> None:
    """Each run gets a little further than the one before."""
    expected = image(job(tmp_path / "expected"))
    out = tmp_path / "out"
    kills, allowed = 0, 12
    while killed_at(allowed, out):
        kills += 1
        allowed += 1
        assert not out.exists() or image(out) == expected
        if out.exists():
            break
    assert kills > 5
    assert image(out) == expected


SCRIPT = """
import sys, time, pathlib
sys.path.insert(0, sys.argv[2])
import writing
from steelyard.weights import FolderWriter
write = FolderWriter.write
def slow(self, name, array):
    time.sleep(0.02)
    write(self, name, array)
FolderWriter.write = slow
print("ready", flush=True)
writing.job(pathlib.Path(sys.argv[1]), resume=True)
"""


def test_a_process_killed_at_random_moments(tmp_path: Path) -> None:
    expected = image(job(tmp_path / "expected"))
    out = tmp_path / "out"
    draw = random.Random(3)
    killed = 0
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(out), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0, 0.12))
        child.kill()
        killed += child.wait() == -signal.SIGKILL
        child.stdout.close()
        if out.exists():
            break
    assert killed >= 2
    if not out.exists():
        job(out, resume=True)
    assert image(out) == expected
