"""Packages that bear the name of a verb: `steelyard.measure` is a room of the house and a public function."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    """A package that is also the function of its name in `steelyard.api`, whichever is looked up first."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        verb = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module("steelyard.api"), verb)(*args, **options)


def make_verb(package: str) -> None:
    """Let a package, given by its name, be called as the function of that name."""
    sys.modules[package].__class__ = _Verb
