"""Parameters of a merge as recipes write them: numbers, gradients over the layers, and filters by tensor name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Scalar = float | int | bool | str
Value = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True)
class Setting:
    """One parameter: the first condition that a tensor's name meets gives its value.

    Attributes:
        conditions: (part of the tensor's name or None for any, value). A tuple of numbers is a gradient: they lie
            evenly spaced from the first layer to the last, and values in between are interpolated. Of a tuple of
            other things the one at or before the layer counts.
    """

    conditions: tuple[tuple[str | None, Value], ...]

    def at(self, tensor: str, depth: float) -> Any | None:
        """Return the value for a tensor; None if no condition holds.

        Args:
            tensor: its name.
            depth: 0 for the first layer and what is in no layer, 1 for the last.
        """
        for part, value in self.conditions:
            if part is None or part in tensor:
                return _interpolated(value, depth) if isinstance(value, tuple) else value
        return None

    def scalars(self) -> Iterator[Scalar]:
        """Yield every value that is written down."""
        for _, value in self.conditions:
            yield from value if isinstance(value, tuple) else (value,)

    @classmethod
    def parse(cls, data: Any) -> Setting:
        """Read a setting from plain data.

        Raises:
            ValueError: saying what a setting looks like.
        """
        if isinstance(data, Mapping):
            data = [data]
        if isinstance(data, list) and data and all(isinstance(item, Mapping) for item in data):
            return cls(tuple(_condition(item) for item in data))
        return cls(((None, _value(data)),))


Settings = Mapping[str, Setting]
"""Parameters by name."""


def _condition(item: Mapping[str, Any]) -> tuple[str | None, Value]:
    if "value" not in item or set(item) - {"value", "filter"}:
        raise ValueError(f"a condition is `filter:` and `value:`, got {dict(item)!r}")
    part = item.get("filter")
    if part is not None and not isinstance(part, str):
        raise ValueError(f"a filter is a part of a tensor's name, got {part!r}")
    return None if part in (None, "*") else part, _value(item["value"])


def _value(data: Any) -> Value:
    if isinstance(data, list) and data and all(isinstance(item, float | int | str) for item in data):
        return tuple(data)
    if isinstance(data, float | int | str):
        return data
    raise ValueError(f"a number, a list of numbers, or a list of `filter:` and `value:` is expected, got {data!r}")


def _interpolated(values: tuple[Scalar, ...], depth: float) -> Scalar:
    place = depth * (len(values) - 1)
    before = int(place)
    first = values[before]
    if isinstance(first, str) or any(isinstance(value, str) for value in values):
        return first
    last = values[min(before + 1, len(values) - 1)]
    assert not isinstance(last, str)
    share = place - before
    return (1 - share) * first + share * last
