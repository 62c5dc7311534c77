"""What is searched: numbers of a recipe, each between two bounds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.edits.merge import registry
from steelyard.errors import UserError

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Range:
    """Bounds of a parameter.

    Attributes:
        low: the least value.
        high: the greatest.
        anchors: values along the layers; 1 for the same in every layer.
    """

    low: float
    high: float
    anchors: int = 1

    @classmethod
    def parse(cls, text: str) -> tuple[str, Range]:
        """Read `NAME=LOW:HIGH` or `NAME=LOW:HIGH:ANCHORS`.

        Raises:
            UserError: if it is not of that form.
        """
        name, equals, rest = text.partition("=")
        parts = rest.split(":")
        try:
            if not equals or not name or len(parts) not in (2, 3):
                raise ValueError
            found = cls(float(parts[0]), float(parts[1]), int(parts[2]) if len(parts) == 3 else 1)
            if not (np.isfinite(found.low) and found.low < found.high < np.inf and found.anchors >= 1):
                raise ValueError
        except ValueError:
            raise UserError(
                f"{text!r} is no range to search; write NAME=LOW:HIGH, or NAME=LOW:HIGH:ANCHORS for a gradient "
                "over the layers"
            ) from None
        return name, found


@dataclass(frozen=True)
class _Parameter:
    """One parameter in one place of the recipe."""

    holder: Path
    name: str
    range: Range


class Space:
    """The numbers of one recipe that are searched, as points of the unit cube.

    Args:
        recipe: as plain data; its own numbers are where the search begins, the middle of a range where it has none.
        ranges: by parameter.

    Raises:
        UserError: for a parameter that the recipe's method does not have.
    """

    def __init__(self, recipe: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
        if not ranges:
            raise UserError("nothing to search; name parameters, such as --search weight=0:1")
        self._recipe = copy.deepcopy(dict(recipe))
        method = registry.get(str(recipe.get("merge_method")))
        of_models = {field.alias or name for name, field in method.per_model.model_fields.items()}
        of_method = {field.alias or name for name, field in method.options.model_fields.items()}
        self._parameters: list[_Parameter] = []
        for name, found in ranges.items():
            if name in of_models:
                self._parameters += [_Parameter(holder, name, found) for holder in self._experts()]
            elif name in of_method:
                self._parameters.append(_Parameter((), name, found))
            else:
                known = ", ".join(sorted(of_models | of_method)) or "none"
                raise UserError(f"{method.name} has no parameter {name!r} to search; it has {known}")

    @property
    def names(self) -> list[str]:
        """What each coordinate is, in words."""
        named = []
        for parameter in self._parameters:
            holder = self._at(parameter.holder)
            where = f" of {holder['model']}" if "model" in holder else ""
            many = parameter.range.anchors > 1
            for anchor in range(parameter.range.anchors):
                named.append(f"{parameter.name}{f'[{anchor}]' if many else ''}{where}")
        return named

    def start(self) -> np.ndarray:
        """Return the point that the recipe itself is, float64 [coordinates] within the cube."""
        point: list[float] = []
        for parameter in self._parameters:
            bounds = parameter.range
            held = self._at(parameter.holder).get("parameters", {}).get(parameter.name)
            values = _numbers(held) or _numbers(self._recipe.get("parameters", {}).get(parameter.name))
            if values is None:
                values = [(bounds.low + bounds.high) / 2]
            along = np.interp(np.linspace(0, 1, bounds.anchors), np.linspace(0, 1, len(values)), values)
            point += ((along - bounds.low) / (bounds.high - bounds.low)).tolist()
        return np.clip(point, 0.0, 1.0)

    def values(self, point: Sequence[float] | np.ndarray) -> list[float]:
        """Return what each coordinate of a point amounts to, to six digits, as it is written and measured."""
        ranges = [each.range for each in self._parameters for _ in range(each.range.anchors)]
        return [
            round(bounds.low + (bounds.high - bounds.low) * float(place), 6)
            for bounds, place in zip(ranges, point, strict=True)
        ]

    def recipe(self, point: Sequence[float] | np.ndarray) -> dict[str, Any]:
        """Return the recipe at a point of the cube."""
        made = copy.deepcopy(self._recipe)
        values = iter(self.values(point))
        for parameter in self._parameters:
            bounds = parameter.range
            found = [next(values) for _ in range(bounds.anchors)]
            holder = self._at(parameter.holder, made)
            holder.setdefault("parameters", {})[parameter.name] = found if bounds.anchors > 1 else found[0]
        return made

    def _experts(self) -> Iterator[Path]:
        """Yield the places of the models that are no base."""
        base = self._recipe.get("base_model")
        for number, entry in enumerate(self._recipe.get("models") or []):
            if entry.get("model") != base:
                yield ("models", number)
        for number, slice_ in enumerate(self._recipe.get("slices") or []):
            for place, entry in enumerate(slice_.get("sources") or []):
                if entry.get("model") != slice_.get("base_model", base):
                    yield ("slices", number, "sources", place)

    def _at(self, path: Path, recipe: dict[str, Any] | None = None) -> dict[str, Any]:
        found: Any = self._recipe if recipe is None else recipe
        for step in path:
            found = found[step]
        return dict(found) if recipe is None else found


def _numbers(value: Any) -> list[float] | None:
    """Return what a plain number or gradient is; None for anything else, such as filters."""
    values = value if isinstance(value, list) else [value]
    plain = bool(values) and all(isinstance(item, int | float) and not isinstance(item, bool) for item in values)
    return [float(item) for item in values] if plain else None
