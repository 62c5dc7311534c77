"""What a format is: how encoded tensors lie in a Hugging Face folder and how its config declares them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from steelyard.codecs import Codec, DenseCodec
from steelyard.spec import ModelSpec, TensorSpec
from steelyard.weights.layout import StoredTensor

PLAIN = ("F32", "F16", "BF16")
"""Types in which a tensor is stored under its own name, for any loader to cast."""


class Format(Protocol):
    """A way of writing a plan into a folder. Names are those of the result's tensors.

    Attributes:
        name: as `--format` takes it.
        packs_tied: whether one packed copy can serve as both embedding table and head.
    """

    name: str
    packs_tied: bool

    def supports(self, spec: ModelSpec, name: str, codec: Codec) -> bool:
        """Tell whether a tensor can be stored under a codec, in a way that loads."""
        ...

    def stored(self, spec: ModelSpec, name: str, codec: Codec) -> list[StoredTensor]:
        """Return what is written for a tensor."""
        ...

    def pack(
        self, spec: ModelSpec, name: str, codec: Codec, parts: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the arrays of what is written, by stored name."""
        ...

    def config(self, spec: ModelSpec, config: Mapping[str, Any], codecs: Mapping[str, Codec]) -> dict[str, Any]:
        """Return the content of config.json.

        Args:
            spec: the model.
            config: its config as it is.
            codecs: codec of every tensor that is not left as it is.
        """
        ...


def tensor_of(spec: ModelSpec, name: str) -> TensorSpec:
    """Return the tensor that a tensor of the result is made from: itself, or the table it was tied to."""
    return spec.tensors[spec.ties.get(name, name)]


def is_plain(codec: Codec) -> bool:
    """Tell whether a codec is a cast to a type that every loader takes."""
    return isinstance(codec, DenseCodec) and codec.dtype in PLAIN


def plain_stored(spec: ModelSpec, name: str, codec: Codec) -> list[StoredTensor]:
    """Return the one tensor a cast writes."""
    assert isinstance(codec, DenseCodec)
    return [StoredTensor(name, codec.dtype, tensor_of(spec, name).shape)]


def plain_pack(spec: ModelSpec, name: str, codec: Codec, parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the array a cast writes, turned back where the checkpoint stores it transposed."""
    (array,) = parts.values()
    return {name: np.ascontiguousarray(array.T) if tensor_of(spec, name).transposed else array}


def base_config(spec: ModelSpec, config: Mapping[str, Any], written: Mapping[str, Codec]) -> dict[str, Any]:
    """Return the config without any quantization, untied where a tied copy is written by its own name."""
    changed = {key: value for key, value in config.items() if key != "quantization_config"}
    if any(name in spec.ties for name in written):
        changed["tie_word_embeddings"] = False
    return changed
