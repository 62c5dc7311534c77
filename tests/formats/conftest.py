"""Folders of every kind of model in every format, made once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from formats.folders import KINDS, PLAIN, Written, build_tiny, every_codec, integers, write_folder, write_reference

Build = Callable[..., Written]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that gives the folder of a tiny model: (kind, dtype) -> folder."""
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("sources")

    def source(kind: str, dtype: str = "float32") -> Path:
        folder = root / f"{kind}-{dtype}"
        return folder if folder.exists() else build_tiny(kind, folder, dtype)

    return source


@pytest.fixture(scope="session")
def written(sources: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return a function that gives a tiny model in a format: (kind, dtype, format, apart) -> Written."""
    root = tmp_path_factory.mktemp("written")
    made: dict[str, Written] = {}

    def write(kind: str, dtype: str, format_name: str, apart: bool = False) -> Written:
        name = f"{kind}-{dtype}-{format_name}" + ("-apart" if apart else "")
        if name not in made:
            scale = "BF16" if dtype == "bfloat16" else "F16"
            menu: Any = {
                "compressed-tensors": integers(scale),
                "steelyard": every_codec(scale),
                "dense": PLAIN,
            }[format_name]
            made[name] = write_folder(sources(kind, dtype), root / name, format_name, menu, apart)
        return made[name]

    return write


@pytest.fixture(scope="session")
def load_plainly(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return a function that loads {name: (Written, class)} where steelyard cannot be imported."""
    root = tmp_path_factory.mktemp("plain")

    def load(jobs: dict[str, tuple[Written, str]], timeout: float = 300) -> dict[str, Any]:
        orders = {}
        for name, (made, class_name) in jobs.items():
            plain = root / made.folder.name
            if not plain.exists():
                write_reference(made, plain)
            orders[name] = {"folder": str(made.folder), "class": class_name, "plain": str(plain)}
        asked, told = root / "jobs.json", root / "results.json"
        asked.write_text(json.dumps(orders))
        child = Path(__file__).with_name("load_child.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        subprocess.run(
            [sys.executable, "-I", str(child), str(asked), str(told)],
            check=True,
            timeout=timeout,
            env=environment,
            capture_output=True,
        )
        results: dict[str, Any] = json.loads(told.read_text())
        return results

    return load


def class_of(kind: str) -> str:
    """The class of a kind's model."""
    return KINDS[kind][0]
