"""What is known about a checkpoint's tensors, by a table or by a guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.spec.tensor import FusedGroup, TensorSpec

Shapes = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and safetensors element type of every tensor of a checkpoint, by name."""


@dataclass(frozen=True)
class Reading:
    """A checkpoint's tensors sorted out; the attributes are those of `ModelSpec`."""

    tensors: Mapping[str, TensorSpec]
    ties: Mapping[str, str]
    stored_aliases: tuple[str, ...]
    groups: tuple[FusedGroup, ...]
    n_layers: int
    block_prefixes: tuple[str, ...]
    input_keys: Mapping[str, str]
    notes: tuple[str, ...]
