"""The roundings on offer: each is one file under `edits/` with one decorated function.

A method is a function `(weight, codec, statistics, options) -> result`, where the result has `parts()`, the
stored arrays, and `decode()`, the matrix that readers will see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from steelyard.edits.catalogue import Catalogue, Function, Registered

Method = Registered

_CATALOGUE: Catalogue[Method] = Catalogue("steelyard.edits", "method")


def method(*, name: str, summary: str, paper: str, options: type[BaseModel]) -> Callable[[Function], Function]:
    """Return the decorator that registers a function as a method; arguments as in `Registered`."""
    return _CATALOGUE.register(lambda function: Method(name, summary, paper, options, function))


def methods() -> Mapping[str, Method]:
    """Return every method by name, in the order of the names."""
    return _CATALOGUE.entries


def get(name: str) -> Method:
    """Return a method by name.

    Raises:
        UserError: if there is none, with the nearest name and all names.
    """
    return _CATALOGUE.get(name)


def table() -> list[dict[str, Any]]:
    """Return the table of methods as plain data, one row each, for the docs and `steelyard methods`."""
    return _CATALOGUE.table()
