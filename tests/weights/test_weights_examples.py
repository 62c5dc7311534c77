"""The examples in the docstrings, run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import steelyard.weights

MODULES = [f"steelyard.weights.{module.name}" for module in pkgutil.iter_modules(steelyard.weights.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    tried = sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES)
    assert tried >= 3


def test_torch_is_not_needed() -> None:
    heavy = {"torch", "transformers", "fsspec", "huggingface_hub"}
    code = f"import sys, steelyard.weights; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
