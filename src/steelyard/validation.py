"""Options models from plain values, with one line for what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from steelyard.errors import UserError

Options = TypeVar("Options", bound=BaseModel)


def assignments(words: Iterable[str], whose: str, model: type[BaseModel]) -> dict[str, Any]:
    """Return values by field name from texts such as "rank=8"; those of a list are joined by colons.

    Args:
        words: the texts.
        whose: what errors call the owner of the settings.
        model: says which fields are lists; it is not validated against.

    Raises:
        UserError: if a text is no assignment.
    """
    values: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{whose}: a setting is name=value, not {word!r}")
        key = name.strip().replace("-", "_")
        field = model.model_fields.get(key)
        several = field is not None and get_origin(field.annotation) in (tuple, list)
        values[key] = [part.strip() for part in value.split(":") if part.strip()] if several else value.strip()
    return values


def validate(model: type[Options], values: Mapping[str, Any], prefix: str = "") -> Options:
    """Return the options from values; None stands for the default.

    Args:
        model: the options model.
        values: by field name.
        prefix: what stands before an option's name in messages, such as "--".

    Raises:
        UserError: naming the option, what is accepted and what was given.
    """
    try:
        return model.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            problem = f"no such option; accepted: {', '.join(model.model_fields)}"
        if not name:
            raise UserError(problem) from None
        shown = prefix + (name.replace("_", "-") if prefix == "--" else name)
        raise UserError(f"{shown}: {problem} (got {first.get('input')!r})") from None
