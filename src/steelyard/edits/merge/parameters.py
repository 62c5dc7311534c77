"""Parameters of a method, resolved for a tensor and validated; what is wrong is collected."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from steelyard.edits.merge import registry
from steelyard.edits.merge.dialect import MergeRecipe, Module, Slice, Source
from steelyard.edits.merge.dialect.recipe import value_of
from steelyard.edits.merge.problems import Problems
from steelyard.edits.merge.registry import MergeMethod

# Knobs of mergekit that say how it computes, not what.
_MERGEKITS_OWN = frozenset({"int8_mask"})


class Parameters:
    """Resolves the options of a method and of each model, tensor by tensor."""

    def __init__(self, recipe: MergeRecipe, method: MergeMethod, problems: Problems) -> None:
        self._recipe, self._method, self._problems = recipe, method, problems
        self._options = _spellings(method.options)
        self._per_model = _spellings(method.per_model)
        self._made: dict[Any, BaseModel | None] = {}

    def options(self, tensor: str, depth: float, module: Module, slice_: Slice) -> BaseModel | None:
        """Return the method's options for a tensor of the result; None after a problem."""
        values = self._values(self._options, tensor, depth, module, slice_, None)
        return self._build(self._method.options, values, "", tensor, lenient=False)

    def of_model(
        self, tensor: str, depth: float, module: Module, slice_: Slice, source: Source, is_base: bool
    ) -> BaseModel | None:
        """Return what is set for one model, for its tensor of that name; None after a problem."""
        values = self._values(self._per_model, tensor, depth, module, slice_, source)
        return self._build(self._method.per_model, values, str(source.model), tensor, is_base)

    def check_names(self) -> tuple[str, ...]:
        """Refuse parameters no method has; return a note for each that only other methods have.

        Recipes often keep parameters of a method they were first written for, and mergekit passes over them.
        """
        known = {*self._options.values(), *self._per_model.values()}
        notes: dict[str, None] = {}
        for settings in self._recipe.settings():
            for name in settings:
                if name in known or name in _MERGEKITS_OWN:
                    continue
                if name in _of_any_method():
                    notes[f"{self._method.name} has no parameter {name}: it was passed over"] = None
                    continue
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}? " if near else ""
                self._problems.add(f"no parameter {name}", f"{hint}{self._method.name} has {_listed(known)}")
        return tuple(notes)

    def check_values(self) -> None:
        """Refuse every value written down that the method does not accept, wherever it would apply."""
        for settings in self._recipe.settings():
            for name, setting in settings.items():
                for model, spellings in (
                    (self._method.options, self._options),
                    (self._method.per_model, self._per_model),
                ):
                    if name in spellings.values():
                        for value in setting.scalars():
                            self._build(model, {name: value}, "", "", lenient=True)

    def _values(
        self,
        spellings: Mapping[str, str],
        tensor: str,
        depth: float,
        module: Module,
        slice_: Slice,
        source: Source | None,
    ) -> dict[str, Any]:
        found = {}
        for spelled in spellings.values():
            value = value_of(spelled, tensor, depth, self._recipe, module, slice_, source)
            if value is not None:
                found[spelled] = value
        return found

    def _build(
        self, model: type[BaseModel], values: Mapping[str, Any], label: str, tensor: str, lenient: bool
    ) -> BaseModel | None:
        """Return the validated model; `lenient` forgives what is missing."""
        key = (model, tuple(sorted(values.items())), lenient)
        if key not in self._made:
            self._made[key] = self._validated(model, values, label, tensor, lenient)
        return self._made[key]

    def _validated(
        self, model: type[BaseModel], values: Mapping[str, Any], label: str, tensor: str, lenient: bool
    ) -> BaseModel | None:
        try:
            return model.model_validate(dict(values))
        except ValidationError as error:
            failed = error.errors()
        serious = [item for item in failed if not (lenient and item["type"] == "missing")]
        if not serious:
            return model.model_construct(**values)
        first = serious[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            self._problems.add(f"parameter {name} is missing", f"set it for {label or 'the recipe'}", tensor=tensor)
        else:
            given = first["input"]
            self._problems.add(f"parameter {name}: got {given!r}", first["msg"].removeprefix("Value error, "))
        return None


@functools.cache
def _of_any_method() -> frozenset[str]:
    """Return the parameters of all methods."""
    return frozenset(
        spelled
        for method in registry.methods().values()
        for model in (method.options, method.per_model)
        for spelled in _spellings(model).values()
    )


def _spellings(model: type[BaseModel]) -> dict[str, str]:
    """Return how recipes spell each field: `lambda` is no name that a field could have."""
    return {name: field.alias or name for name, field in model.model_fields.items()}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
