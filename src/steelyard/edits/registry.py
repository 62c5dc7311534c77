"""The methods on offer: each is one file under `edits/` with one decorated function.

A method is a function `(weight, codec, statistics, options) -> result`, where the result has `parts()`, the
stored arrays, and `decode()`, the matrix that readers will see. From its registration come the recipe step, the
command-line options, the row in the table of methods and its contract tests.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from steelyard.errors import UserError

Function = TypeVar("Function", bound=Callable[..., Any])

_MARK = "__steelyard_method__"


@dataclass(frozen=True)
class Method:
    """One registered method.

    Attributes:
        name: how recipes and the command line call it.
        summary: one line.
        paper: authors, year and identifier of the source; "" if it has none.
        options: frozen pydantic model, with a default and a description for every field.
        function: `(weight, codec, statistics, options) -> result`.
    """

    name: str
    summary: str
    paper: str
    options: type[BaseModel]
    function: Callable[..., Any]

    def build(self, values: Mapping[str, Any]) -> BaseModel:
        """Return validated options from plain values.

        Raises:
            UserError: naming the option, what was given, and what is accepted.
        """
        unknown = [key for key in values if key not in self.options.model_fields]
        if unknown:
            raise UserError(f"{self.name} has no option {_suggest(unknown[0], list(self.options.model_fields))}")
        try:
            return self.options.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{self.name}: {where}: {first['msg']} (got {first['input']!r})") from None


def method(*, name: str, summary: str, paper: str, options: type[BaseModel]) -> Callable[[Function], Function]:
    """Return the decorator that registers a function as a method.

    Args:
        name: how recipes and the command line call it.
        summary: one line for the table of methods.
        paper: authors, year and identifier of the source; "" if it has none.
        options: its options; every field needs a default and a description.
    """

    def register(function: Function) -> Function:
        setattr(function, _MARK, Method(name, summary, paper, options, function))
        return function

    return register


@cache
def methods() -> Mapping[str, Method]:
    """Return every method by name, in the order of the names.

    Imports each public module under `steelyard.edits`; none of them imports numba, scipy or torch before it works.
    """
    found: dict[str, Method] = {}
    package = importlib.import_module("steelyard.edits")
    for info in pkgutil.walk_packages(package.__path__, "steelyard.edits."):
        if info.name.rpartition(".")[2].startswith("_"):
            continue
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            registered = getattr(value, _MARK, None)
            if isinstance(registered, Method) and value.__module__ == info.name:
                if registered.name in found:
                    raise ValueError(f"two methods are called {registered.name}")
                found[registered.name] = registered
    return dict(sorted(found.items()))


def get(name: str) -> Method:
    """Return a method by name.

    Raises:
        UserError: if there is none, with the nearest name and all names.
    """
    known = methods()
    if name not in known:
        raise UserError(f"there is no method {_suggest(name, list(known))}")
    return known[name]


def table() -> list[dict[str, Any]]:
    """Return the table of methods as plain data, one row each, for the docs and `steelyard methods`."""
    return [
        {
            "name": known.name,
            "summary": known.summary,
            "paper": known.paper,
            "module": known.function.__module__,
            "options": [
                {
                    "name": field,
                    "default": info.get_default(call_default_factory=True),
                    "description": info.description,
                }
                for field, info in known.options.model_fields.items()
            ],
        }
        for known in methods().values()
    ]


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{name!r}; {hint}available: {', '.join(known)}"
