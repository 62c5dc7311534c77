"""How a recipe names a model: `path@revision+adapter@revision`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelReference:
    """A model, and an adapter to apply to it if there is one.

    Attributes:
        path: a folder, a GGUF file, an fsspec URL, or "org/name" of a model in the local Hugging Face cache.
        revision: branch, tag or commit of a model in that cache.
        lora: the adapter's path.
        lora_revision: the adapter's revision.
    """

    path: str
    revision: str | None = None
    lora: str | None = None
    lora_revision: str | None = None

    @property
    def location(self) -> str:
        """What opens the model without its adapter."""
        return self.path if self.revision is None else f"{self.path}@{self.revision}"

    @property
    def lora_location(self) -> str | None:
        """What opens the adapter; None without one."""
        if self.lora is None:
            return None
        return self.lora if self.lora_revision is None else f"{self.lora}@{self.lora_revision}"

    def __str__(self) -> str:
        return self.location if self.lora is None else f"{self.location}+{self.lora_location}"

    @classmethod
    def parse(cls, value: Any) -> ModelReference:
        """Read a reference as mergekit does; only a path that exists as it stands is taken whole.

        Args:
            value: a string, or a mapping with `model` and `lora`, each a string or a mapping of path and revision.

        Raises:
            ValueError: saying what a reference looks like.
        """
        if isinstance(value, str) and value.strip():
            if os.path.exists(value):
                return cls(value)
            model, *adapters = value.split("+")
            if len(adapters) <= 1:
                return cls(*_place(model), *(_place(adapters[0]) if adapters else ()))
        elif isinstance(value, Mapping) and "model" in value:
            lora = value.get("lora")
            return cls(*_place(value["model"]), *(() if lora is None else _place(lora)))
        raise ValueError(f"a model is `path`, `path@revision` or `path+adapter`, got {value!r}")


def _place(value: Any) -> tuple[str, str | None]:
    """Return (path, revision)."""
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        return value["path"], value.get("revision")
    if isinstance(value, str) and value.strip():
        if "://" in value or os.path.exists(value):
            return value, None
        path, *revisions = value.split("@")
        if path and len(revisions) <= 1:
            return path, revisions[0] if revisions else None
    raise ValueError(f"a model is `path` or `path@revision`, got {value!r}")
