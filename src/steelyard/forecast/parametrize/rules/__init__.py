"""The rules on offer: each is one file here with one `RULE`, found by itself."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

from steelyard.errors import UserError
from steelyard.forecast.parametrize.rule import Rule


@cache
def rules() -> Mapping[str, Rule]:
    """Return every rule by name, in the order of the names."""
    found: dict[str, Rule] = {}
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        rule: Rule = importlib.import_module(info.name).RULE
        if rule.name in found:
            raise ValueError(f"two rules are called {rule.name}")
        found[rule.name] = rule
    return dict(sorted(found.items()))


def get(name: str) -> Rule:
    """Return a rule by name.

    Raises:
        UserError: if there is none, with the nearest name and all names.
    """
    known = rules()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"there is no parametrization {name!r}; {hint}available: {', '.join(known)}")
    return known[name]
