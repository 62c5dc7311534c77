"""The tensors of a model by place: which layer and which part of it; so that layers of several models line up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.spec import ModelSpec, TensorSpec
from steelyard.spec.tensor import BUFFER

_LAST_NUMBER = re.compile(r"\d+(?=\D*$)")


@dataclass(frozen=True)
class StackOfLayers:
    """One stack of a model's layers.

    Attributes:
        block: pattern or start of the names of its layers.
        prefixes: what the names of each layer start with.
        layers: name of every tensor of each layer, by the rest of its name in today's spelling.
    """

    block: str
    prefixes: tuple[str, ...]
    layers: tuple[Mapping[str, str], ...]

    def prefix(self, layer: int) -> str:
        """Return what names of a layer start with, for layers beyond the model's too."""
        if layer < len(self.prefixes):
            return self.prefixes[layer]
        return _LAST_NUMBER.sub(str(layer), self.prefixes[0])


@dataclass(frozen=True)
class Shelves:
    """The tensors of a model by place.

    Attributes:
        stacks: its stacks of layers.
        outside: name of every tensor outside of the layers, by its name with the prefix and in today's spelling.
        ties: outside names that are another tensor, and that tensor's own name.
        buffers: names of tensors that a model computes by itself.
    """

    stacks: tuple[StackOfLayers, ...]
    outside: Mapping[str, str]
    ties: Mapping[str, str]
    buffers: frozenset[str]

    def find_outside(self, place: str) -> str | None:
        """Return the tensor of a place outside of the layers, the tied one if there is no other."""
        return self.outside.get(place) or self.ties.get(place)


def shelves(spec: ModelSpec) -> Shelves:
    """Return the tensors of a model by place."""
    spans = _spans(spec)
    layers: list[dict[str, str]] = [{} for _ in range(spec.n_layers)]
    outside: dict[str, str] = {}
    for name, tensor in spec.tensors.items():
        layer = tensor.layer
        prefix = "" if layer is None or layer >= len(spec.block_prefixes) else spec.block_prefixes[layer]
        if layer is not None and prefix and name.startswith(prefix):
            layers[layer][_today(spec, name)[len(_today(spec, prefix)) :]] = name
        else:
            outside[_today(spec, name)] = name
    stacks = tuple(
        StackOfLayers(block, spec.block_prefixes[start:stop], tuple(layers[start:stop]))
        for block, start, stop in spans
    )
    ties = {_today(spec, alias): name for alias, name in spec.ties.items()}
    return Shelves(stacks, outside, ties, frozenset(spec.buffers()))


def comes_first(place: str, tensor: TensorSpec) -> bool:
    """Tell whether a tensor outside of the layers works before them, as embeddings do."""
    if tensor.role is not None:
        return tensor.role.startswith("embed")
    return "embed" in place or place.split(".")[-2:-1] in (["wte"], ["wpe"])


def is_buffer(tensor: TensorSpec) -> bool:
    """Tell whether a model computes a tensor by itself."""
    return tensor.role == BUFFER


def _spans(spec: ModelSpec) -> list[tuple[str, int, int]]:
    """Return (block, first layer, after the last) of every stack."""
    if spec.architecture is None:
        return [("", 0, spec.n_layers)] if spec.n_layers else []
    stacks = spec.architecture.stacks_of(spec.config)
    return [(stack.block, stack.before, stack.before + stack.blocks) for stack in stacks if stack.blocks]


def _today(spec: ModelSpec, name: str) -> str:
    """Return a name with the architecture's prefix, spelled as its table does."""
    architecture = spec.architecture
    if architecture is None:
        return name
    if architecture.match(name) is None and architecture.match(architecture.prefix + name) is not None:
        name = architecture.prefix + name
    elif not name.startswith(architecture.prefix) and (architecture.prefix + name).startswith(
        architecture.block.partition("{")[0]
    ):
        name = architecture.prefix + name  # the start of a layer's names in a file that lacks the prefix
    return architecture.rename(name)
