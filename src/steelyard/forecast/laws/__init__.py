"""The laws on offer: each is one file here with one decorated function, found by itself."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

from steelyard.errors import UserError
from steelyard.forecast.law import Law


@cache
def laws() -> Mapping[str, Law]:
    """Return every law by name, in the order of the names."""
    found: dict[str, Law] = {}
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        if info.name.rpartition(".")[2].startswith("_"):
            continue
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, Law) and value.form.__module__ == info.name:
                if value.name in found:
                    raise ValueError(f"two laws are called {value.name}")
                found[value.name] = value
    return dict(sorted(found.items()))


def get(name: str) -> Law:
    """Return a law by name.

    Raises:
        UserError: if there is none, with the nearest name and all names.
    """
    known = laws()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"there is no law {name!r}; {hint}available: {', '.join(known)}")
    return known[name]
