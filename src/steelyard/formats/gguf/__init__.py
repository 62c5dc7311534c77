"""GGUF, the file of llama.cpp and of what is built on it: any of its types for any matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from steelyard.codecs import Codec, DenseCodec
from steelyard.codecs.gguf import GgufCodec
from steelyard.errors import UserError
from steelyard.formats.base import PLAIN, base_config, is_plain, tensor_of
from steelyard.formats.container import Container
from steelyard.formats.gguf.metadata import FACTORS, QUANTIZATION_VERSION, Value, model_keys, rotary_factors
from steelyard.formats.gguf.names import FAMILIES, SWITCH, Family, expert_count, expert_of, gguf_name, row_order
from steelyard.formats.gguf.tokenizer import vocabulary_keys
from steelyard.formats.gguf.writing import ALIGNMENT, GgufTensor, info_bytes, plan_gguf
from steelyard.spec import ModelSpec, TensorSpec
from steelyard.spec.tensor import ROUTER
from steelyard.weights import Checkpoint, Layout, StoredTensor

# What llama.cpp calls a file by the type most of its weights have; 1024 is its "guessed".
_FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15,
    "Q5_K": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "MXFP4": 38,
}  # fmt: skip

# By what effort: every type that is on some convex hull of bytes and errors, and more of those that seldom are.
_MENU = {
    "quick": ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0"),
    "good": ("Q2_K", "Q3_K", "IQ4_XS", "IQ4_NL", "Q4_K", "Q4_1", "Q5_K", "Q5_1", "Q6_K", "Q8_0"),
    "best": (
        "TQ1_0", "TQ2_0", "Q2_K", "Q3_K", "IQ4_XS", "MXFP4", "IQ4_NL", "Q4_0", "Q4_K", "Q4_1", "Q5_0", "Q5_K",
        "Q5_1", "Q6_K", "Q8_0",
    ),
}  # fmt: skip
# Rows that are no whole number of 256 weights have the types of 32 alone.
_NARROW = ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
# Tables that llama.cpp adds to a float: it reads them as such. Routers are never rounded there either.
_FLOATS = ("embed.position", "embed.type", ROUTER, SWITCH)


@dataclass(frozen=True)
class GgufFormat(Container):
    """One `model.gguf`, or one cut in several, beside the files of the Hugging Face folder.

    Attributes:
        keys: what the file says of its model beside its types; bound to a model by `bound_to`.
        constants: tensors that follow from the config, by name.
    """

    name = "gguf"
    packs_tied = True
    keys: Mapping[str, Value] = field(default_factory=dict)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)

    def bound_to(self, checkpoint: Checkpoint, spec: ModelSpec) -> Self:
        """Return the format with the keys and the vocabulary of a model.

        Raises:
            UserError: if GGUF has no place for the model, a tensor or the tokenizer.
        """
        family = _family(spec)
        for name in spec.tensors:
            _name(spec, family, name)
        table = next((t for t in spec.tensors.values() if t.role == "embed.token"), None)
        if table is None:
            raise UserError(f"{checkpoint.location} has no table of tokens; GGUF is for language models")

        def read(name: str) -> bytes | None:
            return b"".join(checkpoint.stream_other(name)) if checkpoint.has_other(name) else None

        keys: dict[str, Value] = {"general.architecture": family.name, "general.type": "model"}
        keys |= model_keys(spec, family)
        keys |= vocabulary_keys(read, table.matrix_shape[0], spec.config)
        if family.name == "bert":
            keys["tokenizer.ggml.token_type_count"] = int(spec.config.get("type_vocab_size", 2))
        factors = rotary_factors(spec)
        return type(self)(keys=keys, constants={} if factors is None else {FACTORS: factors})

    def kept(self, spec: ModelSpec, name: str) -> Codec | None:
        """Return plain numbers of the tensor's own type, or float32 where llama.cpp needs that."""
        if _name(spec, _family(spec), name) is None:
            return None
        tensor = tensor_of(spec, name)
        if tensor.dtype not in PLAIN:
            raise UserError(f"{name} is {tensor.dtype}; GGUF is written from F32, F16 and BF16")
        return DenseCodec("F32" if len(tensor.shape) < 2 or tensor.role in _FLOATS else tensor.dtype)

    def together(self, spec: ModelSpec, name: str) -> str:
        """Return the file's tensor of a layer's experts, which lie there as one; else the tensor's own name."""
        if expert_of(spec, name) is None:
            return name
        return str(_name(spec, _family(spec), name))

    def menu(self, spec: ModelSpec, tensors: Sequence[TensorSpec], effort: str) -> Iterator[Codec]:
        """Yield the types for matrices."""
        if any(len(tensor.shape) != 2 or tensor.role in _FLOATS for tensor in tensors):
            return
        if all(tensor.dtype == "F32" for tensor in tensors):
            yield DenseCodec("F16")
        narrow = any(tensor.matrix_shape[1] % 256 for tensor in tensors)
        for kind in _NARROW if narrow else _MENU[effort]:
            codec = GgufCodec(kind)
            if all(self.supports(spec, tensor.name, codec) for tensor in tensors):
                yield codec

    def supports(self, spec: ModelSpec, name: str, codec: Codec) -> bool:
        """Tell whether llama.cpp reads a tensor stored so."""
        if _name(spec, _family(spec), name) is None:
            return False  # not a part of the file, such as a sentence encoder's unused pooler
        tensor = tensor_of(spec, name)
        if is_plain(codec):
            return True
        matrix = len(tensor.shape) == 2 and tensor.role not in _FLOATS
        return matrix and isinstance(codec, GgufCodec) and tensor.matrix_shape[1] % codec.block == 0

    def stored(self, spec: ModelSpec, name: str, codec: Codec) -> list[StoredTensor]:
        """Return the one tensor of the file, by GGUF's name."""
        family, tensor = _family(spec), tensor_of(spec, name)
        found = _name(spec, family, name)
        assert found is not None
        sizes = tensor.matrix_shape if len(tensor.shape) == 2 else tensor.shape
        if tensor.role == SWITCH:
            sizes = sizes[1:]
        if isinstance(codec, GgufCodec):
            dtype, shape = codec.parts(sizes)["blocks"]
            made = GgufTensor(found, dtype, shape, codec.kind, sizes)
        else:
            assert isinstance(codec, DenseCodec)
            made = GgufTensor(found, codec.dtype, sizes, codec.dtype, sizes)
        if (expert := expert_of(spec, name)) is not None:
            own = _slice_name(found, expert)
            made = replace(made, name=own, stack=found, place=expert, slices=expert_count(spec))
        return [made]

    def pack(
        self, spec: ModelSpec, name: str, codec: Codec, parts: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the tensor with its rows in GGUF's order; blocks never cross rows, so that is exact."""
        (array,) = parts.values()
        order = row_order(spec, _family(spec), name)
        found = _name(spec, _family(spec), name)
        assert found is not None
        ordered = np.ascontiguousarray(array if order is None else array[order])
        expert = expert_of(spec, name)
        if tensor_of(spec, name).role == SWITCH:
            ordered = ordered.reshape(-1)
        return {found if expert is None else _slice_name(found, expert): ordered}

    def config(self, spec: ModelSpec, config: Mapping[str, Any], codecs: Mapping[str, Codec]) -> dict[str, Any]:
        """Return the config as of the plain model: GGUF describes its types itself."""
        return base_config(spec, config, {name: codec for name, codec in codecs.items() if name in spec.tensors})

    def layout(self, tensors: Sequence[StoredTensor], max_shard_size: int | None) -> Layout:
        """Return the one file, or those of a split."""
        weights: Counter[str] = Counter()
        for tensor in tensors:
            assert isinstance(tensor, GgufTensor)
            weights[tensor.kind] += tensor.nbytes
        most = max(weights, key=lambda kind: weights[kind], default="F32")
        keys: dict[str, Value] = {
            "general.quantization_version": QUANTIZATION_VERSION,
            "general.file_type": _FILE_TYPES[most],
        }
        return plan_gguf(tensors, {**self.keys, **keys}, self.constants, max_shard_size)

    def entry_bytes(self, tensor: StoredTensor) -> int:
        """Return a tensor's entry in the header and its padding."""
        assert isinstance(tensor, GgufTensor)
        return info_bytes(tensor) + -tensor.nbytes % ALIGNMENT


def _slice_name(name: str, expert: int) -> str:
    """Return what the writer calls one expert's share of a tensor."""
    return f"{name}[{expert}]"


def _family(spec: ModelSpec) -> Family:
    kind = str(spec.config.get("model_type"))
    if kind not in FAMILIES or spec.architecture is None:
        raise UserError(f"models of type {kind!r} cannot be written to GGUF yet; {', '.join(FAMILIES)} can")
    return FAMILIES[kind]


def _name(spec: ModelSpec, family: Family, name: str) -> str | None:
    try:
        return gguf_name(spec, family, name)
    except KeyError:
        raise UserError(
            f"GGUF's {family.name} has no place for {name}; write a class without it, such as the base model"
        ) from None
