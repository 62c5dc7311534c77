"""Fixtures that several floors share."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import steelyard
from tiny_llama import write_tiny

__all__ = ["steelyard"]


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that tests only read: a tiny Llama in float32, head and table apart."""
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tied_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that tests only read: a tiny Llama in bfloat16, the head tied to the table."""
    return write_tiny(tmp_path_factory.mktemp("models") / "tied-llama", tied=True, dtype="bfloat16")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, for what they share; a page of the docs is on its own."""
    for item in items:
        alone = item.get_closest_marker("alone") is not None
        item.add_marker(pytest.mark.xdist_group(item.nodeid if alone else str(item.path)))
