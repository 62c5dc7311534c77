"""The tables of `steelyard.spec.architectures`, found by being there."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from steelyard.spec import architectures as package
from steelyard.spec.architecture import Architecture


@cache
def architectures() -> Mapping[str, Architecture]:
    """Return every architecture by its `model_type`: one module of the package each."""
    found: dict[str, Architecture] = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        if module.name.startswith("_"):
            continue
        table = importlib.import_module(f"{package.__name__}.{module.name}").ARCHITECTURE
        if table.model_type in found:
            raise ValueError(f"two tables for model_type {table.model_type!r}; the second is {module.name}.py")
        found[table.model_type] = table
    return MappingProxyType(found)


def find_architecture(config: Mapping[str, Any]) -> Architecture | None:
    """Return the table for a config; None if there is none."""
    return architectures().get(str(config.get("model_type")))
