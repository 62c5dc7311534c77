"""The tables of `steelyard.spec.architectures`, found by being there."""

from __future__ import annotations

import importlib
import importlib.util
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
        table = _table(f"{package.__name__}.{module.name}")
        if _module(table.model_type) != module.name:
            raise ValueError(f"the table for model_type {table.model_type!r} is in {module.name}.py")
        found[table.model_type] = table
    return MappingProxyType(found)


def find_architecture(config: Mapping[str, Any]) -> Architecture | None:
    """Return the table for a config; None if there is none. Only the module of that name is imported."""
    name = _module(str(config.get("model_type")))
    if not name.isidentifier() or name.startswith("_"):
        return None
    path = f"{package.__name__}.{name}"
    return _table(path) if importlib.util.find_spec(path) else None


def _table(path: str) -> Architecture:
    table: Architecture = importlib.import_module(path).ARCHITECTURE
    return table


def _module(model_type: str) -> str:
    return model_type.replace("-", "_")
