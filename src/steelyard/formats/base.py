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

_CONFIG_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_TIME_STEPS = "ssm.dt"
_INITIALIZED = ("ssm.out", "mamba")


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


def is_called(spec: ModelSpec, name: str) -> bool:
    """Tell whether transformers calls the linear map of a weight, so that a packed one can stand in for it.

    Mamba's blocks multiply with the weight of their time steps by themselves.
    """
    return tensor_of(spec, name).role != _TIME_STEPS


def is_replaceable(spec: ModelSpec, name: str) -> bool:
    """Tell whether a linear map may become a module that has no tensor called `weight`.

    transformers' Mamba gives the weight of its last map a first value even when the model is loaded packed.
    """
    return is_called(spec, name) and (tensor_of(spec, name).role, spec.config.get("model_type")) != _INITIALIZED


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


def load_dtype(spec: ModelSpec) -> str:
    """Return the type transformers loads the model in: its config's, else that of most of its bytes."""
    text = spec.config.get("text_config")
    for config in (spec.config, text if isinstance(text, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            named = str(config.get(key)).removeprefix("torch.")
            if named in _CONFIG_NAMES:
                return _CONFIG_NAMES[named]
    sizes = dict.fromkeys(PLAIN, 0)
    for tensor in spec.tensors.values():
        if tensor.dtype in sizes:
            sizes[tensor.dtype] += tensor.nbytes
    return max(PLAIN, key=lambda dtype: sizes[dtype])


def loads_exactly(spec: ModelSpec, dtype: str) -> bool:
    """Tell whether numbers of a type survive the loader's cast to the model's type."""
    return load_dtype(spec) in ("F32", dtype)


def scale_dtype(spec: ModelSpec) -> str:
    """Return the 16-bit type that scales keep when the model is loaded: of its own type, or float16 for float32."""
    return "BF16" if load_dtype(spec) == "BF16" else "F16"


def group_constraint(spec: ModelSpec) -> dict[str, str]:
    """Return, for tensors that inference engines run as one and that must share one codec, their group."""
    return {member: group.name for group in spec.groups for member in group.members}


def base_config(spec: ModelSpec, config: Mapping[str, Any], written: Mapping[str, Codec]) -> dict[str, Any]:
    """Return the config without any quantization.

    It is untied where a tied copy is written by its own name, or where the spec has no tie though the config
    declares one (its values differ). It always says the type to load in: left to itself the loader takes that of
    the first float in the file, which may be a scale.
    """
    changed = {key: value for key, value in config.items() if key != "quantization_config"}
    declared = spec.architecture.tied(config) if spec.architecture is not None else {}
    if any(name in spec.ties for name in written) or (declared and not spec.ties):
        changed["tie_word_embeddings"] = False
    if "dtype" not in changed and "torch_dtype" not in changed:
        changed["dtype"] = {dtype: name for name, dtype in _CONFIG_NAMES.items()}[load_dtype(spec)]
    return changed
