"""What a merge recipe says, as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from steelyard.edits.merge.dialect.reference import ModelReference
from steelyard.edits.merge.dialect.settings import Settings


@dataclass(frozen=True)
class Source:
    """One model's part in a slice.

    Attributes:
        model: which.
        layers: its layers, from the first to before the second; None is all of them.
        parameters: set for this model.
    """

    model: ModelReference
    layers: tuple[int, int] | None = None
    parameters: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """A run of layers of the result, made of as many layers of each source.

    Attributes:
        sources: the models.
        base: the base model here, where it is another than the recipe's.
        parameters: set for all models of the slice.
    """

    sources: tuple[Source, ...]
    base: ModelReference | None = None
    parameters: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Module:
    """One stack of layers of the result, and what belongs to it.

    Attributes:
        slices: from bottom to top.
        parameters: set for all of it.
    """

    slices: tuple[Slice, ...]
    parameters: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class MergeRecipe:
    """One merge.

    Attributes:
        name: what later documents of the same file call the result (`name`, or `out_path` as mergekit-mega has it);
            "" if it has none.
        method: name of the merge method.
        base: the base model; None without one.
        modules: by name; "" stands for all that no name claims, which is everything unless the recipe names any.
        parameters: set for everything.
        dtype: what mergekit computes in; the type of the result if `out_dtype` is absent.
        out_dtype: element type of the result.
        tokenizer: as written under `tokenizer`, or {"source": …} for `tokenizer_source`; None leaves it alone.
        chat_template: as written.
        text: the YAML.
        notes: what was read and has no meaning here.
    """

    name: str
    method: str
    base: ModelReference | None
    modules: Mapping[str, Module]
    parameters: Settings
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer: Mapping[str, Any] | None = None
    chat_template: str | None = None
    text: str = ""
    notes: tuple[str, ...] = ()

    def references(self) -> list[ModelReference]:
        """Return every model the recipe names, the base last unless it is among the others."""
        named = [source.model for slice_ in self.slices() for source in slice_.sources]
        bases = [self.base, *(slice_.base for slice_ in self.slices())]
        return list(dict.fromkeys([*named, *(base for base in bases if base is not None)]))

    def slices(self) -> Iterator[Slice]:
        """Yield every slice of every module."""
        for module in self.modules.values():
            yield from module.slices

    def settings(self) -> Iterator[Settings]:
        """Yield the parameters of every level."""
        yield self.parameters
        for module in self.modules.values():
            yield module.parameters
            for slice_ in module.slices:
                yield slice_.parameters
                for source in slice_.sources:
                    yield source.parameters


def value_of(
    name: str, tensor: str, depth: float, recipe: MergeRecipe, module: Module, slice_: Slice, source: Source | None
) -> Any | None:
    """Return a parameter: the source's before the slice's before the module's before the recipe's.

    Args:
        name: of the parameter.
        tensor: name of the tensor, in the source for a parameter of the source, else in the result.
        depth: see `Setting.at`.
        recipe: the recipe.
        module: the module the tensor belongs to.
        slice_: the slice.
        source: the model it is asked for; None for a parameter of the method.
    """
    own = () if source is None else (source.parameters,)
    for settings in (*own, slice_.parameters, module.parameters, recipe.parameters):
        if name in settings and (value := settings[name].at(tensor, depth)) is not None:
            return value
    return None
