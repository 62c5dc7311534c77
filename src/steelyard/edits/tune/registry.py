"""The ways of training on offer: each is one file beside this one with one decorated function.

A tuner is a function `(start, options) -> Trainable`. It turns the stored codes of one matrix into something that
a gradient can change and that can be stored again under the same codec, in the same bytes.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from steelyard.codecs import Codec
from steelyard.edits.tune.trainable import Start, Trainable
from steelyard.errors import UserError

Function = TypeVar("Function", bound=Callable[..., Any])

_MARK = "__steelyard_tuner__"


@dataclass(frozen=True)
class Tuner:
    """One registered way of training.

    Attributes:
        name: how recipes and the command line call it.
        summary: one line.
        paper: authors, year and identifier of the source.
        options: frozen pydantic model, with a default and a description for every field.
        codecs: the codec classes whose tensors it can train.
        function: `(start, options) -> Trainable`.
    """

    name: str
    summary: str
    paper: str
    options: type[BaseModel]
    codecs: tuple[type[Codec], ...]
    function: Callable[[Start, Any], Trainable]

    def takes(self, codec: Codec | None) -> bool:
        """Tell whether tensors of a codec can be trained this way."""
        return isinstance(codec, self.codecs)

    def build(self, settings: tuple[str, ...]) -> BaseModel:
        """Return validated options from texts such as "rank=8".

        Raises:
            UserError: naming the option, what was given, and what is accepted.
        """
        values: dict[str, str] = {}
        for setting in settings:
            key, equals, value = setting.partition("=")
            key = key.strip().replace("-", "_")
            if not equals or key not in self.options.model_fields:
                known = ", ".join(self.options.model_fields) or "none"
                raise UserError(f"{self.name} has no setting {setting!r}; name=value with one of: {known}")
            values[key] = value.strip()
        try:
            return self.options.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{self.name}: {where}: {first['msg']} (got {first['input']!r})") from None


def tuner(
    *, name: str, summary: str, paper: str, options: type[BaseModel], codecs: tuple[type[Codec], ...]
) -> Callable[[Function], Function]:
    """Return the decorator that registers a function as a way of training; arguments as in `Tuner`."""

    def register(function: Function) -> Function:
        setattr(function, _MARK, Tuner(name, summary, paper, options, codecs, function))
        return function

    return register


@cache
def tuners() -> Mapping[str, Tuner]:
    """Return every way of training by name; none of their modules imports torch before it works."""
    found: dict[str, Tuner] = {}
    package = importlib.import_module("steelyard.edits.tune")
    for info in pkgutil.iter_modules(package.__path__, "steelyard.edits.tune."):
        if info.name.rpartition(".")[2].startswith("_"):
            continue
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            registered = getattr(value, _MARK, None)
            if isinstance(registered, Tuner) and value.__module__ == info.name:
                if registered.name in found:
                    raise ValueError(f"two ways of training are called {registered.name}")
                found[registered.name] = registered
    return dict(sorted(found.items()))


def get(name: str) -> Tuner:
    """Return a way of training by name.

    Raises:
        UserError: if there is none, with the nearest name and all names.
    """
    known = tuners()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"nothing trains by {name!r}; {hint}available: {', '.join(known)}")
    return known[name]
