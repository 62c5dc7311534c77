"""Which units of a network may change places without changing its function, read from the model's named axes.

A space is a run of units that several tensors share along one of their dimensions: the residual stream, the inner
channels of one feed-forward, the rows of one attention's queries. Reordering a space in every tensor that has it is
a change of names for its units and nothing else. Spaces of one attention are bound to each other: a key head moves
with the query heads that read it, and channels only move within their head. Where positions turn queries and keys,
each of their channels has a frequency of its own and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steelyard.errors import UserError

if TYPE_CHECKING:
    from steelyard.spec import ModelSpec, TensorSpec

Read = Callable[[str], np.ndarray]
"""Returns a tensor of a model by name."""

STREAM = "stream"
"""The space of the residual stream."""

ROTARY = ("llama", "mistral", "qwen2", "qwen3")
FAMILIES = (*ROTARY, "gpt2", "bert")
"""The model types that can be aligned: those whose function is proved to be kept by a forward pass of our own."""

_FIXED = frozenset({"vocab", "position", "type", "label", "sentence_order", "head_dim"})
_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "attended"}


@dataclass(frozen=True)
class Attention:
    """One block's attention.

    Attributes:
        name: its spaces are this and `.query`, `.key`, `.value`, `.attended`, units head by head.
        heads: query heads.
        kv_heads: key and value heads; query heads that read the same one stand side by side.
        channels: of a head.
        keys_free: whether channels of queries and keys may change places within a head.
    """

    name: str
    heads: int
    kv_heads: int
    channels: int
    keys_free: bool

    @property
    def repeat(self) -> int:
        """Query heads that read one key head."""
        return self.heads // self.kv_heads

    def space(self, part: str) -> str:
        """Return the name of one of its spaces: query, key, value or attended."""
        return f"{self.name}.{part}"


@dataclass(frozen=True)
class Symmetry:
    """The spaces of a model.

    Attributes:
        dims: for every tensor and each of its dimensions, the spaces along it in order; () where units stay.
        sizes: units of every space.
        plain: spaces whose units may take any order, each on its own.
        attentions: spaces that are bound to each other.
    """

    dims: Mapping[str, tuple[tuple[str, ...], ...]]
    sizes: Mapping[str, int]
    plain: tuple[str, ...]
    attentions: tuple[Attention, ...]

    @classmethod
    def of(cls, spec: ModelSpec) -> Symmetry:
        """Return the spaces of a model.

        Raises:
            UserError: if its family is not known here, or it holds what is no plain float.
        """
        architecture = spec.architecture
        if architecture is None or spec.model_type not in FAMILIES:
            raise UserError(
                f"alignment knows the model types {', '.join(FAMILIES)}, "
                f"not {spec.model_type or 'an unnamed one'!r}"
            )
        sizes: dict[str, int] = {}
        dims: dict[str, tuple[tuple[str, ...], ...]] = {}
        # Who reads the last hidden states sees their order, unless a head stands in between.
        stream = spec.task in ("causal", "masked")
        settings = architecture.settings(spec.config)
        heads = architecture.axis_size("head", settings)
        grouped = "kv_head" in architecture.sizes
        for tensor in spec.tensors.values():
            if tensor.role == "buffer":
                continue
            if not tensor.is_plain_float:
                raise UserError(
                    f"{tensor.name} is not a plain float tensor; align models before they are quantized"
                )
            dims[tensor.name] = tuple(
                _spaces(tensor, axis, length, stream, sizes)
                for axis, length in zip(tensor.axes or (), tensor.shape, strict=True)
            )
        attentions = tuple(
            Attention(
                f"layer.{layer}.attention",
                heads,
                architecture.axis_size("kv_head", settings) if grouped else heads,
                architecture.axis_size("head_dim", settings),
                spec.model_type not in ROTARY,
            )
            for layer in range(spec.n_layers)
        )
        plain = tuple(name for name in sizes if ".attention." not in name)
        return cls(dims, sizes, plain, attentions)

    def from_the_input(self) -> list[str | Attention]:
        """Return what is matched on its own, from the input to the output: the stream, then block by block."""
        found: list[str | Attention] = [space for space in self.plain if "." not in space]
        for attention in self.attentions:
            block = attention.name.removesuffix("attention")
            found += [attention, *(space for space in self.plain if space.startswith(block))]
        return found

    def holders(self, space: str) -> list[tuple[str, int]]:
        """Return every tensor that has a space, and the dimension."""
        return [
            (name, dim) for name, spaces in self.dims.items() for dim, names in enumerate(spaces) if space in names
        ]

    def stretch(self, name: str, dim: int, space: str) -> slice:
        """Return where along a tensor's dimension a space lies."""
        start = 0
        for known in self.dims[name][dim]:
            if known == space:
                return slice(start, start + self.sizes[known])
            start += self.sizes[known]
        raise KeyError(space)


def _spaces(tensor: TensorSpec, axis: str, length: int, stream: bool, sizes: dict[str, int]) -> tuple[str, ...]:
    """Return the spaces along one dimension of a tensor, and note their sizes."""
    if axis in _FIXED:
        return ()
    found: tuple[str, ...]
    if axis == "hidden":
        found = (STREAM,) if stream else ()
    elif axis == "ffn":
        found = (f"layer.{tensor.layer}.ffn",)
    else:
        parts = str(tensor.role).split(".")
        block = f"layer.{tensor.layer}.attention."
        if parts[0] == "attn" and parts[1] == "qkv":
            found = tuple(block + name for name in ("query", "key", "value"))
        elif parts[0] == "attn" and parts[1] in _ATTENTION:
            found = (block + _ATTENTION[parts[1]],)
        else:
            raise UserError(f"{tensor.name} has an axis {axis!r} that alignment does not know")
    for name in found:
        if sizes.setdefault(name, length // len(found)) != length // len(found):
            raise UserError(f"{tensor.name} has {length} units of {axis}, other tensors {sizes[name]}")
    return found
