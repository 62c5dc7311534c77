"""What importing costs, and where the compiled kernels are kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import steelyard
from steelyard.compiled import Kernel

SOURCE = Path(steelyard.__file__).parent


def run(code: str, **environment: str) -> str:
    """Run Python code in a fresh process and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_planning_needs_neither_numba_nor_scipy_nor_torch() -> None:
    run(
        "import sys\n"
        "from steelyard.codecs import from_dict, IntegerCodec\n"
        "codec = from_dict(IntegerCodec(4, 64).to_dict())\n"
        "codec.nbytes((128, 128)), codec.parts((128, 128)), codec.label\n"
        "heavy = {'numba', 'llvmlite', 'scipy', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


def test_all_kernels_can_be_compiled_ahead() -> None:
    from steelyard.codecs import _kernels, compile_kernels

    compile_kernels()
    kernels = [value for value in vars(_kernels).values() if isinstance(value, Kernel)]
    assert len(kernels) == 7 and all(kernel._compiled is not None for kernel in kernels)


ENCODE = (
    "import numpy as np, steelyard\n"
    "from steelyard.codecs.rows import pack, unpack\n"
    "codes = np.arange(-4, 4, dtype=np.int8).reshape(1, 8)\n"
    "assert (unpack(pack(codes, 3), 3, 8) == codes).all()\n"
    "print(steelyard.__file__)"
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a folder with a copy of the package that holds no compiled kernels."""
    shutil.copytree(
        SOURCE, tmp_path / "lib" / "steelyard", ignore=shutil.ignore_patterns("__pycache__", "reference")
    )
    return tmp_path / "lib"


@pytest.mark.slow
def test_a_package_that_cannot_be_written_keeps_kernels_in_the_users_cache(copy: Path, tmp_path: Path) -> None:
    # A file in the place of the cache folder stops even the superuser from writing there.
    (copy / "steelyard" / "codecs" / "__pycache__").write_text("")
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}

    def kept() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.nbc")}

    assert Path(run(ENCODE, PYTHONPATH=str(copy), **home).strip()).is_relative_to(copy)
    first = kept()
    assert first
    run(ENCODE, PYTHONPATH=str(copy), **home)
    assert kept() == first  # taken from there, not compiled again


@pytest.mark.slow
def test_kernels_work_where_nothing_can_be_written(copy: Path, tmp_path: Path) -> None:
    (copy / "steelyard" / "codecs" / "__pycache__").write_text("")
    (tmp_path / "cache").write_text("")
    printed = run(
        ENCODE,
        PYTHONPATH=str(copy),
        HOME=str(tmp_path / "cache"),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert Path(printed.strip()).is_relative_to(copy)
    assert not list(tmp_path.rglob("*.nbc"))
