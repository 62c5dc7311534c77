"""kill -9 in the middle of a merge, and a disk that fills up: then --resume ends in the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from merge.siblings import write_sibling
from steelyard.budget.merge import merge_file
from steelyard.edits.merge import engine
from steelyard.edits.merge.options import MergeOptions
from steelyard.edits.merge.plan import PlannedTensor
from steelyard.errors import UserError
from steelyard.weights import DiskFullError
from tiny_llama import digest, write_tiny

# Runs a merge that tells when a tensor is begun, waits there to be killed, and goes on when told to.
SCRIPT = """
import sys
from steelyard.budget.merge import merge_file
from steelyard.edits.merge import engine
from steelyard.edits.merge.options import MergeOptions
begin = engine._Engine._begin
count = 0
def told(self, planned):
    global count
    if not self._writer.done(planned.name):
        count += 1
        print(count, flush=True)
        if count == int(sys.argv[3]):
            sys.stdin.readline()
    begin(self, planned)
engine._Engine._begin = told
merge_file(sys.argv[1], sys.argv[2], MergeOptions(workers=1, seed=5), resume=True)
"""


@pytest.fixture
def recipe(family: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yml"
    path.write_text(
        f"models: [{{model: {family}/one, parameters: {{density: 0.4}}}}, {{model: {family}/two}}]\n"
        f"merge_method: dare_ties\nbase_model: {family}/base\n"
    )
    return path


def killed(recipe: Path, out: Path, tensor: int) -> None:
    """Merge in a process that is killed when it begins its `tensor`-th tensor."""
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(recipe), str(out), str(tensor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdin is not None
    assert any(int(line) == tensor for line in child.stdout)
    child.kill()
    child.stdin.close()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL


def test_killed_again_and_again(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process begins where the first was killed; the run after it has the rest of the 21 tensors."""
    (tmp_path / "right").mkdir()
    merge_file(recipe, tmp_path / "right" / "out", MergeOptions(seed=5, workers=2))
    out = tmp_path / "out"
    for tensor in (8, 5):
        killed(recipe, out, tensor)
        assert not out.exists() and (tmp_path / ".out.partial").is_dir()
    begun: list[str] = []
    begin = engine._Engine._begin

    def counted(self: Any, planned: PlannedTensor) -> None:
        begun.extend([] if self._writer.done(planned.name) else [planned.name])
        begin(self, planned)

    monkeypatch.setattr(engine._Engine, "_begin", counted)
    merge_file(recipe, out, MergeOptions(seed=5), resume=True)
    assert len(begun) == 21 - 7 - 4
    assert digest(out) == digest(tmp_path / "right" / "out")
    assert not (tmp_path / ".out.partial").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_too_small_is_noticed_before_any_work(tmp_path: Path, small_disk: Path) -> None:
    wide = {"intermediate_size": 4096}
    write_tiny(tmp_path / "a", **wide)
    write_sibling(tmp_path / "b", 1, **wide)
    path = tmp_path / "recipe.yml"
    path.write_text(f"models: [{{model: {tmp_path}/a}}, {{model: {tmp_path}/b}}]\nmerge_method: linear\n")
    with pytest.raises(UserError, match=r"no space for .*/disk/out: it takes [0-9,]+ bytes"):
        merge_file(path, small_disk / "out")
    assert os.listdir(small_disk) == []


def test_a_disk_that_fills_up_in_the_middle(recipe: Path, tmp_path: Path, small_disk: Path) -> None:
    """The weights have their place from the start; what comes beside them has not."""
    (tmp_path / "right").mkdir()
    merge_file(recipe, tmp_path / "right" / "out", MergeOptions(seed=5))
    weights = (tmp_path / "right" / "out" / "model.safetensors").stat().st_size
    someone_else = small_disk / "someone-else"
    someone_else.write_bytes(bytes((2 << 20) - weights - (8 << 10)))
    with pytest.raises(DiskFullError, match="no space for"):
        merge_file(recipe, small_disk / "out", MergeOptions(seed=5), resume=True)
    assert not (small_disk / "out").exists() and (small_disk / ".out.partial").is_dir()
    someone_else.unlink()
    merge_file(recipe, small_disk / "out", MergeOptions(seed=5), resume=True)
    assert digest(small_disk / "out") == digest(tmp_path / "right" / "out")
    assert os.listdir(small_disk) == ["out"]
