"""The same bytes every time: twice in a row, and after kill -9 at any moment followed by `resume`."""

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

import steelyard as sy
from steelyard.errors import UserError
from tiny_llama import digest, image, write_tiny

Job = Callable[..., Any]

OPERATIONS = ("open", "mkdir", "write", "pwrite", "fsync", "rename", "replace", "unlink", "rmdir")


def quantize(model: Path, out: Path, resume: bool = False) -> None:
    sy.quantize(model, out=out, resume=resume, rounding="rtn", bits=3, max_shard_size="40kB")


def fit(model: Path, out: Path, resume: bool = False) -> None:
    sy.fit(model, out=out, resume=resume, data="none", effort="quick", ratio=0.4, max_shard_size="60kB")


JOBS = pytest.mark.parametrize("job", [quantize, fit], ids=["quantize", "fit"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> dict[Job, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    for job in (quantize, fit):
        job(tiny_llama, folder / job.__name__)
    return {job: image(folder / job.__name__) for job in (quantize, fit)}


def run_and_die(job: Job, model: Path, out: Path, fatal: int) -> int | None:
    """Run a job in a child that kills itself at the given operation on the disk.

    Returns:
        How many operations the job took if it came to its end, None if it was killed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def armed(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
            def operation(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == fatal:
                    if name in {"write", "pwrite"}:
                        descriptor, data, *rest = arguments
                        original(descriptor, data[: len(data) // 2], *rest)
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **options)

            return operation

        try:
            tell = os.write
            for name in OPERATIONS:
                setattr(os, name, armed(name, getattr(os, name)))
            job(model, out, resume=True)
            tell(writing, str(count).encode())
            os._exit(0)
        except BaseException as error:
            tell(2, f"{error!r}\n".encode())
            os._exit(1)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert os.WEXITSTATUS(status) == 0
    return int(told)


@JOBS
def test_twice_the_same_bytes(
    tmp_path: Path, tiny_llama: Path, undisturbed: dict[Job, dict[str, bytes]], job: Job
) -> None:
    """All files: weights, index, config, record, page and figures; whatever the folder is called."""
    job(tiny_llama, tmp_path / "elsewhere" / "under-another-name")
    again = image(tmp_path / "elsewhere" / "under-another-name")
    assert again.keys() == undisturbed[job].keys()
    assert {"config.json", "steelyard.json", "model.safetensors.index.json"} <= again.keys()
    assert "report.html" in again or job is quantize
    for name, data in again.items():
        assert data == undisturbed[job][name], name


@JOBS
def test_killed_at_any_operation_then_resumed(
    tmp_path: Path, tiny_llama: Path, undisturbed: dict[Job, dict[str, bytes]], job: Job
) -> None:
    before = digest(tiny_llama)
    out = tmp_path / "out"
    operations = run_and_die(job, tiny_llama, out, fatal=0)
    assert operations is not None and operations > 40
    assert image(out) == undisturbed[job]
    shutil.rmtree(out)
    draw = random.Random(job.__name__)
    moments = sorted(draw.sample(range(2, operations), 5))
    for fatal in moments:
        killed = run_and_die(job, tiny_llama, out, fatal) is None
        assert killed or job is fit  # what matplotlib does to the disk may vary
        if not out.exists():  # a kill after the last rename leaves a complete folder
            job(tiny_llama, out, resume=True)
        assert image(out) == undisturbed[job], fatal
        shutil.rmtree(out)
        left = set(os.listdir(tmp_path))
        for name in left:  # only of a kill after the rename
            shutil.rmtree(tmp_path / name)
        assert left <= {".out.partial", ".out.work"}
    assert digest(tiny_llama) == before


@JOBS
def test_killed_again_and_again(
    tmp_path: Path, tiny_llama: Path, undisturbed: dict[Job, dict[str, bytes]], job: Job
) -> None:
    out = tmp_path / "out"
    for fatal in (20, 45, 60):
        run_and_die(job, tiny_llama, out, fatal)
    if not out.exists():
        job(tiny_llama, out, resume=True)
    assert image(out) == undisturbed[job]


SCRIPT = """
import sys, time
from steelyard.cli import main
from steelyard.weights import FolderWriter
write = FolderWriter.write
def slow(self, name, array):
    write(self, name, array)
    print(name, flush=True)
    time.sleep(0.05)
FolderWriter.write = slow
main()
"""


@pytest.mark.parametrize("verb", ["fit", "quantize"])
def test_a_command_killed_at_random_moments(
    tmp_path: Path, tiny_llama: Path, undisturbed: dict[Job, dict[str, bytes]], verb: str
) -> None:
    """As it happens to users: the process is shot from outside, and the same command is given again."""
    out = tmp_path / "out"
    options = {
        "fit": ["--data", "none", "--effort", "quick", "--ratio", "0.4", "--max-shard-size", "60kB"],
        "quantize": ["--rounding", "rtn", "--bits", "3", "--max-shard-size", "40kB"],
    }[verb]
    command = [sys.executable, "-c", SCRIPT, verb, str(tiny_llama), *options, "--out", str(out)]
    draw = random.Random(verb)
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(draw.randrange(2, 9)):  # this many tensors have been written
        assert child.stdout.readline()
    time.sleep(draw.uniform(0, 0.05))
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    assert not out.exists() and (tmp_path / ".out.partial").is_dir()
    # Without --resume the command does not touch what is there, and says what to do.
    job = {"fit": fit, "quantize": quantize}[verb]
    with pytest.raises(UserError, match=r"\.out\.partial is left from an unfinished run; add --resume"):
        job(tiny_llama, out)
    job(tiny_llama, out, resume=True)
    assert image(out) == undisturbed[job]
    assert os.listdir(tmp_path) == ["out"]


def test_resuming_with_other_weights_is_refused(tmp_path: Path, tiny_llama: Path) -> None:
    """A repaired or exchanged checkpoint must not be mixed with what an earlier run took from the old one."""
    model, out = write_tiny(tmp_path / "model"), tmp_path / "out"
    fatal = 30
    while not (tmp_path / ".out.partial" / "journal.jsonl").exists() or not os.path.getsize(
        tmp_path / ".out.partial" / "journal.jsonl"
    ):
        assert run_and_die(quantize, model, out, fatal) is None
        fatal += 5
    while b"tensor" not in (tmp_path / ".out.partial" / "journal.jsonl").read_bytes():
        fatal += 5
        assert run_and_die(quantize, model, out, fatal) is None
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="unfinished run"):
        quantize(model, out, resume=True)
    assert not out.exists()


def test_resuming_with_other_options_is_refused(tmp_path: Path, tiny_llama: Path) -> None:
    out = tmp_path / "out"
    fatal = 60
    assert run_and_die(quantize, tiny_llama, out, fatal) is None
    assert b"tensor" in (tmp_path / ".out.partial" / "journal.jsonl").read_bytes()
    with pytest.raises(UserError, match="other options"):
        sy.quantize(tiny_llama, out=out, resume=True, bits=5)
    with pytest.raises(UserError, match="other options"):
        fit(tiny_llama, out, resume=True)
    assert not out.exists()
    quantize(tiny_llama, out, resume=True)
    assert out.is_dir()
