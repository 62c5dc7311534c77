"""Full and read-only disks: one clear line, and no half-written output."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file
from writing import content, image, job, planned

from steelyard.errors import UserError
from steelyard.weights import DiskFullError, FolderWriter, check_output

BIG = {"a": np.ones(1 << 20, np.uint8), "b": np.ones(1 << 20, np.uint8)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_too_small_is_noticed_before_any_work(small_disk: Path) -> None:
    layout = planned({f"w{k}": BIG["a"] for k in range(4)})
    with pytest.raises(DiskFullError, match=rf"{small_disk}/out: it takes {layout.total_bytes:,} bytes.*free"):
        FolderWriter(small_disk / "out", layout)
    assert os.listdir(small_disk) == []


@pytest.mark.parametrize("resume", [False, True])
def test_a_disk_that_fills_up_in_the_middle(small_disk: Path, resume: bool) -> None:
    out = small_disk / "out"
    with (
        pytest.raises(DiskFullError, match="no space for"),
        FolderWriter(out, planned(BIG), resume=resume) as writer,
    ):
        writer.write("a", BIG["a"])
        (small_disk / "someone-else").write_bytes(bytes((1 << 20) + (1 << 19)))
        writer.write("b", BIG["b"])  # its place was reserved at the start
        writer.add_file("tokenizer.json", bytes(1 << 20))
    assert not out.exists()
    assert (small_disk / ".out.partial").exists() == resume
    if resume:
        (small_disk / "someone-else").unlink()
        with FolderWriter(out, planned(BIG), resume=True) as writer:
            assert writer.done("a") and writer.done("b")
            writer.finish()
        read = load_file(out / "model-00001-of-00002.safetensors") | load_file(
            out / "model-00002-of-00002.safetensors"
        )
        assert all((read[name] == array).all() for name, array in BIG.items())


def test_a_read_only_disk(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=rf"{small_disk} is read-only.*--out"):
        FolderWriter(small_disk / "out", planned(BIG))
    with pytest.raises(UserError, match="read-only"):
        check_output(small_disk / "not" / "yet" / "there")


# The same without a mount, so that they are always tested.


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["pwrite", "posix_fallocate", "write", "mkdir", "fsync"])
def test_the_disk_says_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str) -> None:
    def full(*arguments: object, **options: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(DiskFullError, match=rf"{tmp_path}/out: it takes [\d,]+ bytes"):
        job(tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_full_after_some_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `resume` nothing is left; with it, what was done is."""
    original = os.pwrite
    tensors = content()

    def run(out: Path, resume: bool) -> None:
        with FolderWriter(out, planned(tensors), resume=resume, plan_hash="job") as writer:
            for name, array in tensors.items():
                if name == "layers.1.w":
                    monkeypatch.setattr(os, "pwrite", full)
                writer.write(name, array)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    for resume in [False, True]:
        with pytest.raises(DiskFullError):
            run(tmp_path / "out", resume)
        monkeypatch.setattr(os, "pwrite", original)
        assert os.listdir(tmp_path) == ([".out.partial"] if resume else [])
    expected = image(job(tmp_path / "expected"))
    assert image(job(tmp_path / "out", resume=True)) == expected


def test_free_space_is_checked_up_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = planned(BIG)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=layout.total_bytes - 1))
    with pytest.raises(DiskFullError, match=f"{layout.total_bytes:,} bytes"):
        FolderWriter(tmp_path / "out", layout)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["mkdir", "open", "pwrite", "rename"])
def test_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str) -> None:
    def refuse(*arguments: object, **options: object) -> int:
        raise OSError(code, os.strerror(code), "/the/path")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(UserError, match=rf"cannot write /the/path: {os.strerror(code)}; choose another --out"):
        job(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_short_write_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = image(job(tmp_path / "expected"))
    original = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: original(descriptor, data[:100], offset))
    assert image(job(tmp_path / "out")) == expected


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_file_systems_that_reserve_nothing_and_lock_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    expected = image(job(tmp_path / "expected"))

    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert image(job(tmp_path / "out")) == expected
