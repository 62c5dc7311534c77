"""The ecosystem's format: compressed-tensors, `pack-quantized` linears and `int-quantized` embedding tables.

Linear maps are packed densely, each distinct scheme a group of the config that names its modules one by one.
Embedding tables load only where the module keeps a `weight`: as 8-bit integers with one scale a row. A packed
table fails at load ("'Embedding' object has no attribute 'weight'"), and so does a tied table in any integer
form; a tied pair is therefore left as it is, or written apart with `tie_word_embeddings` off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import Codec, IntegerCodec, unpack
from steelyard.formats.base import base_config, is_plain, plain_pack, plain_stored, tensor_of
from steelyard.spec import ModelSpec
from steelyard.spec.tensor import module_of
from steelyard.weights.layout import StoredTensor

PACKED = "pack-quantized"
INTEGERS = "int-quantized"


class CompressedTensorsFormat:
    """Integers in compressed-tensors' layouts; everything else as plain floats."""

    name = "compressed-tensors"
    packs_tied = False

    def supports(self, spec: ModelSpec, name: str, codec: Codec) -> bool:
        """Tell whether a tensor under this codec loads in plain transformers."""
        if is_plain(codec):
            return True
        tensor = tensor_of(spec, name)
        if not isinstance(codec, IntegerCodec) or len(tensor.shape) != 2 or tensor.transposed:
            return False
        if is_table(spec, name):
            return codec.bits == 8 and codec.symmetric and codec.group_size is None
        columns = tensor.matrix_shape[1]
        # A last group that is shorter has no place in the layout, nor has a module without ".weight".
        return name.endswith(".weight") and (codec.group_size is None or columns % codec.group_size == 0)

    def stored(self, spec: ModelSpec, name: str, codec: Codec) -> list[StoredTensor]:
        """Return the packed words, scales, zero points and shape, or 8-bit integers and scales."""
        if is_plain(codec):
            return plain_stored(spec, name, codec)
        shape = tensor_of(spec, name).matrix_shape
        parts = codec.parts(shape)
        module = module_of(name)
        if is_table(spec, name):
            dtype, scale = parts["weight_scale"]
            return [StoredTensor(name, "I8", shape), StoredTensor(f"{module}.weight_scale", dtype, scale)]
        packed = [StoredTensor(f"{module}.{part}", dtype, size) for part, (dtype, size) in parts.items()]
        return [*packed, StoredTensor(f"{module}.weight_shape", "I64", (2,))]

    def pack(
        self, spec: ModelSpec, name: str, codec: Codec, parts: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the arrays by stored name."""
        if is_plain(codec):
            return plain_pack(spec, name, codec, parts)
        shape = tensor_of(spec, name).matrix_shape
        module = module_of(name)
        if is_table(spec, name):
            codes = unpack(parts["weight_packed"], 8, shape[1])
            return {name: codes, f"{module}.weight_scale": parts["weight_scale"]}
        packed = {f"{module}.{part}": array for part, array in parts.items()}
        return {**packed, f"{module}.weight_shape": np.array(shape, dtype=np.int64)}

    def config(self, spec: ModelSpec, config: Mapping[str, Any], codecs: Mapping[str, Codec]) -> dict[str, Any]:
        """Return the config with one group for each scheme and every other matrix under `ignore`."""
        changed = base_config(spec, config, codecs)
        schemes: dict[tuple[str, IntegerCodec], list[str]] = {}
        for name, codec in codecs.items():
            if isinstance(codec, IntegerCodec):
                layout = INTEGERS if is_table(spec, name) else PACKED
                schemes.setdefault((layout, codec), []).append(module_of(name))
        if not schemes:
            return changed
        encoded = {module for modules in schemes.values() for module in modules}
        matrices = [n for n, tensor in spec.tensors.items() if tensor.kind in ("linear", "embedding")]
        tied = [alias for alias in spec.ties if not alias.endswith(".bias")]
        layouts = {layout for layout, _ in schemes}
        changed["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": layouts.pop() if len(schemes) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "global_compression_ratio": None,
            "kv_cache_scheme": None,
            "ignore": [module_of(n) for n in [*matrices, *tied] if module_of(n) not in encoded],
            "config_groups": {
                f"group_{number}": {
                    "targets": modules,
                    "format": layout,
                    "weights": _arguments(codec),
                    "input_activations": None,
                    "output_activations": None,
                }
                for number, ((layout, codec), modules) in enumerate(schemes.items())
            },
        }
        return changed


def is_table(spec: ModelSpec, name: str) -> bool:
    """Tell whether a tensor of the result is an embedding table; a head that was tied to one is not."""
    return name not in spec.ties and tensor_of(spec, name).kind == "embedding"


def _arguments(codec: IntegerCodec) -> dict[str, Any]:
    return {
        "num_bits": codec.bits,
        "type": "int",
        "symmetric": codec.symmetric,
        "strategy": "channel" if codec.group_size is None else "group",
        "group_size": codec.group_size,
        "dynamic": False,
    }
