"""Fixtures of merging: a base and two models made from it, and the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from merge.siblings import write_sibling
from tiny_llama import write_tiny


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `one` and `two`, tiny Llamas in bfloat16 that tests only read."""
    folder = tmp_path_factory.mktemp("family")
    write_tiny(folder / "base", dtype="bfloat16")
    write_sibling(folder / "one", 1, dtype="bfloat16")
    write_sibling(folder / "two", 2, dtype="bfloat16")
    return folder
