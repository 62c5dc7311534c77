"""The merge methods on offer: each is one file under `methods/` with one decorated function.

A merge method is a function `(task, options) -> Merge`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from steelyard.edits.catalogue import Catalogue, Function, Registered
from steelyard.edits.merge.base import NoParameters

Base = Literal["required", "optional", "none"]


@dataclass(frozen=True)
class MergeMethod(Registered):
    """One registered merge method, `(task, options) -> Merge`.

    Attributes:
        per_model: frozen pydantic model of what is set for each input: weights, densities, …
        base: whether a recipe must or may name a base model; "none" has no use for one: it is merged like any other
            where the recipe lists it among the models, and else only its config and tokenizer are taken.
        least: fewest inputs, the base not counted.
        most: most inputs, the base not counted; None is any number.
        mergekit: the name mergekit 0.1.5 has for the same method; "" if it has none.
    """

    per_model: type[BaseModel] = NoParameters
    base: Base = "optional"
    least: int = 1
    most: int | None = None
    mergekit: str = ""


_CATALOGUE: Catalogue[MergeMethod] = Catalogue("steelyard.edits.merge.methods", "merge method")


def merge_method(
    *,
    name: str,
    summary: str,
    paper: str = "",
    options: type[BaseModel] = NoParameters,
    per_model: type[BaseModel] = NoParameters,
    base: Base = "optional",
    least: int = 1,
    most: int | None = None,
    mergekit: str = "",
) -> Callable[[Function], Function]:
    """Return the decorator that registers a function as a merge method; arguments as in `MergeMethod`."""

    def make(function: Callable[..., Any]) -> MergeMethod:
        return MergeMethod(name, summary, paper, options, function, per_model, base, least, most, mergekit)

    return _CATALOGUE.register(make)


def methods() -> Mapping[str, MergeMethod]:
    """Return every merge method by name, in the order of the names."""
    return _CATALOGUE.entries


def get(name: str) -> MergeMethod:
    """Return a merge method by name.

    Raises:
        UserError: if there is none, with the nearest name and all names.
    """
    return _CATALOGUE.get(name)


def table() -> list[dict[str, Any]]:
    """Return the table of merge methods as plain data."""
    return _CATALOGUE.table()
