"""A checkpoint without a table: what can be said from names and shapes, and what cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.spec.conventions import block_of, guess_blocks, guess_tensor
from steelyard.spec.reading import Reading, Shapes
from steelyard.spec.tensor import TensorSpec


def read_unknown(config: Mapping[str, Any], shapes: Shapes) -> Reading:
    """Sort out tensors of an architecture that has no table; every guess is stated in the notes."""
    blocks = guess_blocks(shapes)
    layers = {block: number for number, block in enumerate(blocks)}
    tensors: dict[str, TensorSpec] = {}
    for name, (shape, dtype) in shapes.items():
        tensors[name] = guess_tensor(name, tuple(shape), dtype, layers.get(block_of(name)))
    model_type = config.get("model_type")
    subject = f"architecture {model_type!r}" if model_type else "a checkpoint whose config names no model_type"
    notes = [
        f"no table describes {subject}: kinds of tensors are guessed from their names and shapes",
        "which linears must share one codec is not known, so none are held to it; vLLM may refuse the result",
    ]
    if blocks:
        notes.append(f"{len(blocks)} blocks are guessed from names that start with {blocks[0]}")
    if config.get("tie_word_embeddings"):
        notes.append("the config ties word embeddings, but not which tensors they are: all stored ones are kept")
    return Reading(
        tensors=tensors,
        ties={},
        stored_aliases=(),
        groups=(),
        n_layers=len(blocks),
        block_prefixes=blocks,
        input_keys={name: tensor.module for name, tensor in tensors.items()},
        notes=tuple(notes),
    )
