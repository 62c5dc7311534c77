"""How methods are found: one file each, one decorated function in it, no list to keep.

Every kind of method (roundings, ways of training, merges) has a catalogue of its own. An entry knows its name,
summary, source and options; from it come the recipe step, the command-line options, the row in the table of methods
and the contract tests.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from steelyard.errors import UserError


@dataclass(frozen=True)
class Registered:
    """What is known about one method of any kind.

    Attributes:
        name: how recipes and the command line call it.
        summary: one line.
        paper: authors, year and identifier of the source; "" if it has none.
        options: frozen pydantic model, with a default and a description for every field.
        function: what does it.
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
            raise UserError(f"{self.name} has no option {suggest(unknown[0], self.options.model_fields)}")
        try:
            return self.options.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{self.name}: {where}: {first['msg']} (got {first['input']!r})") from None


Entry = TypeVar("Entry", bound=Registered)
Function = TypeVar("Function", bound=Callable[..., Any])


class Catalogue(Generic[Entry]):
    """The methods of one kind, found where they are defined.

    Args:
        package: every public module under it is imported; none may import numba, scipy or torch before it works.
        kind: what messages call one entry, such as "method".
    """

    def __init__(self, package: str, kind: str) -> None:
        self._package, self._kind = package, kind
        self._mark = f"__steelyard_{kind.replace(' ', '_')}__"

    def register(self, make: Callable[[Callable[..., Any]], Entry]) -> Callable[[Function], Function]:
        """Return the decorator that marks a function with the entry made for it."""

        def mark(function: Function) -> Function:
            setattr(function, self._mark, make(function))
            return function

        return mark

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """Every entry by name, in the order of the names."""
        found: dict[str, Entry] = {}
        package = importlib.import_module(self._package)
        for info in pkgutil.walk_packages(package.__path__, f"{self._package}."):
            if info.name.rpartition(".")[2].startswith("_"):
                continue
            module = importlib.import_module(info.name)
            for value in vars(module).values():
                entry = getattr(value, self._mark, None)
                if entry is not None and value.__module__ == info.name:
                    if entry.name in found:
                        raise ValueError(f"two entries of the kind {self._kind} are called {entry.name}")
                    found[entry.name] = entry
        return dict(sorted(found.items()))

    def get(self, name: str) -> Entry:
        """Return an entry by name.

        Raises:
            UserError: if there is none, with the nearest name and all names.
        """
        if "entries" not in self.__dict__ and (entry := self._alone(name)) is not None:
            return entry
        if name not in self.entries:
            raise UserError(f"there is no {self._kind} {suggest(name, self.entries)}")
        return self.entries[name]

    def _alone(self, name: str) -> Entry | None:
        """Return an entry from the module of its name, without importing the others; None if it is elsewhere."""
        module = f"{self._package}.{name}"
        if not name.isidentifier() or name.startswith("_") or importlib.util.find_spec(module) is None:
            return None
        held = vars(importlib.import_module(module)).values()
        entries: list[Entry] = [getattr(value, self._mark) for value in held if hasattr(value, self._mark)]
        return next((entry for entry in entries if entry.name == name), None)

    def table(self) -> list[dict[str, Any]]:
        """Return the entries as plain data, one row each, for the docs and `steelyard methods`."""
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
            for known in self.entries.values()
        ]


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a wrong name with the nearest right one and all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{name!r}; {hint}available: {', '.join(names)}"
