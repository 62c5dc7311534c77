"""Command-line options from a pydantic options model: the model is the only place where they are declared."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import click
from pydantic import BaseModel

from steelyard.validation import validate

Options = TypeVar("Options", bound=BaseModel)
Function = TypeVar("Function", bound=Callable[..., Any])


def add_options(model: type[BaseModel], skip: frozenset[str] = frozenset()) -> Callable[[Function], Function]:
    """Return a decorator that gives a click command one option for every field of `model`."""

    def decorate(function: Function) -> Function:
        for name, field in reversed(model.model_fields.items()):
            if name in skip:
                continue
            function = _option(name, field)(function)
        return function

    return decorate


def folder_options(function: Function) -> Function:
    """Give a click command what every verb takes that makes a folder: --out, --resume and --json."""
    function = click.option("--json", "as_json", is_flag=True, help="print plain JSON")(function)
    function = click.option("--resume", is_flag=True, help="continue an interrupted run")(function)
    out = click.option("--out", required=True, type=click.Path(path_type=Path), help="the folder to make")
    return out(function)


def plannable_options(function: Function) -> Function:
    """Give a click command what a verb takes that makes a folder and can say beforehand what it would make."""
    function = click.option("--json", "as_json", is_flag=True, help="print plain JSON")(function)
    function = click.option("--dry-run", is_flag=True, help="print what would be made; write nothing")(function)
    function = click.option("--resume", is_flag=True, help="continue an interrupted run")(function)
    return click.option("--out", type=click.Path(path_type=Path), help="the folder to make")(function)


def build(model: type[Options], values: dict[str, Any]) -> Options:
    """Return the options from what click parsed.

    Raises:
        UserError: naming the option and what is accepted.
    """
    return validate(model, values, prefix="--")


def _option(name: str, field: Any) -> Callable[[Function], Function]:
    kind = _without_none(field.annotation)
    flag = "--" + name.replace("_", "-")
    settings: dict[str, Any] = {"help": field.description, "default": None}
    shown = field.get_default(call_default_factory=True)
    if kind is bool:
        names = [f"{flag}/--no-{flag[2:]}"]
    else:
        names = [flag]
        origin = typing.get_origin(kind)
        if origin is Literal:
            settings["type"] = click.Choice([str(choice) for choice in typing.get_args(kind)])
        elif origin in (tuple, list):
            item = typing.get_args(kind)[0]
            # Annotated[float, ...] carries limits that the model checks; here only the type counts.
            settings["callback"] = _split(getattr(item, "__origin__", item))
            settings["metavar"] = "A,B,..."
        elif kind in (int, float):
            settings["type"] = kind
        else:
            settings["type"] = str
    if shown not in (None, (), [], "") and not isinstance(shown, bool):
        settings["help"] = f"{field.description}  [default: {shown}]"
    return click.option(*names, name, **settings)


def _split(item: type) -> Callable[[click.Context, click.Parameter, str | None], tuple[Any, ...] | None]:
    def parse(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[Any, ...] | None:
        if value is None:
            return None
        try:
            return tuple(item(part.strip()) for part in value.split(",") if part.strip())
        except ValueError:
            raise click.BadParameter(f"{value!r} is not a list of {item.__name__} such as 2,3,4") from None

    return parse


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return str if len(kinds) > 1 else kinds[0]
    return annotation
