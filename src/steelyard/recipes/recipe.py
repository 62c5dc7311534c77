"""Recipes: a reviewable list of changes. The command line is sugar over recipes of one step.

model: path/to/model
out: path/to/result
steps:
  - fit: {size: 4MiB}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from steelyard.errors import UserError
from steelyard.recipes import steps as registry
from steelyard.recipes.document import Document, Place, read_document

_KEYS = ("model", "out", "steps")


@dataclass(frozen=True)
class Step:
    """One validated step: its name and its options."""

    name: str
    options: BaseModel


@dataclass(frozen=True)
class Recipe:
    """A validated recipe: the model to start from, the folder to make, and what to do in between."""

    model: str
    out: str
    steps: tuple[Step, ...]


def read_recipe(path: Path) -> Recipe:
    """Read and validate a recipe.

    Raises:
        UserError: naming the line and what is accepted there.
    """
    document = read_document(path)
    data = document.data
    if not isinstance(data, dict):
        raise document.error((), f"a recipe is a mapping with {', '.join(_KEYS)}")
    for key in data:
        if key not in _KEYS:
            raise document.error((key,), f"unknown key; accepted: {', '.join(_KEYS)}")
    for key in _KEYS:
        if not data.get(key):
            raise document.error((), f"{key!r} is missing")
    for key in ("model", "out"):
        if not isinstance(data[key], str):
            raise document.error((key,), "a path is expected")
    if not isinstance(data["steps"], list):
        raise document.error(("steps",), "a list of steps is expected")
    parsed = tuple(_step(document, ("steps", i), item) for i, item in enumerate(data["steps"]))
    return Recipe(data["model"], data["out"], parsed)


def _step(document: Document, place: Place, item: Any) -> Step:
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, dict) or len(item) != 1:
        raise document.error(place, "a step is its name with its options, such as `fit: {size: 4MiB}`")
    name, values = next(iter(item.items()))
    place = (*place, name)
    try:
        step = registry.get(name)
    except UserError as error:
        raise document.error(place, str(error)) from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise document.error(place, "its options are a mapping")
    try:
        return Step(name, step.options().model_validate(values))
    except ValidationError as error:
        first = error.errors()[0]
        inner = (*place, *first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            problem = f"no such option; accepted: {', '.join(step.options().model_fields)}"
        elif first["loc"]:
            problem = f"{problem} (got {first.get('input')!r})"
        raise document.error(inner, problem) from None
