"""Options models from plain values, with one line for what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from steelyard.errors import UserError

Options = TypeVar("Options", bound=BaseModel)


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
