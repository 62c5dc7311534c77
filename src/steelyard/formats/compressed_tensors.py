"""The ecosystem's format: compressed-tensors, each matrix in the layout of it that plain transformers loads.

| tensor | codec | layout |
| --- | --- | --- |
| linear map | integers of 2 to 8 bits | `pack-quantized`: weight_packed, _scale, _shape, _zero_point |
| embedding table | integers of 8 bits | `int-quantized`: weight (I8), weight_scale, weight_zero_point |
| either | 8-bit floats | `float-quantized`: weight (F8_E4M3), weight_scale |

The loader needs a `weight` in an embedding table, so a packed one fails; and a tied table fails in every layout.
A tied pair is therefore left as it is, or written apart with `tie_word_embeddings` off. Scales are cast to the
model's type on loading, so only types that survive the cast are taken. docs/formats/compressed-tensors.md has how
each of these facts was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import Codec, DenseCodec, IntegerCodec, unpack
from steelyard.formats.base import base_config, is_plain, loads_exactly, plain_pack, plain_stored, tensor_of
from steelyard.formats.targets import make_targets, module_name
from steelyard.spec import ModelSpec
from steelyard.weights.layout import StoredTensor

QUANT_METHOD = "compressed-tensors"
PACKED = "pack-quantized"
INTEGERS = "int-quantized"
FLOATS = "float-quantized"
NVFP4 = "nvfp4-pack-quantized"
MXFP4 = "mxfp4-pack-quantized"
MXFP8 = "mxfp8-quantized"

_SCALES = "weight_scale"
_ZEROS = "weight_zero_point"


class CompressedTensorsFormat:
    """Integers and 8-bit floats in compressed-tensors' layouts; everything else as plain floats."""

    name = QUANT_METHOD
    packs_tied = False

    def supports(self, spec: ModelSpec, name: str, codec: Codec) -> bool:
        """Tell whether a tensor under this codec loads in plain transformers, exactly."""
        if isinstance(codec, DenseCodec) and is_plain(codec):
            return loads_exactly(spec, codec.dtype)
        tensor = tensor_of(spec, name)
        if len(tensor.shape) != 2 or tensor.transposed or not name.endswith(".weight"):
            return False
        scales = codec.parts(tensor.matrix_shape).get(_SCALES)
        if scales is None or not loads_exactly(spec, scales[0]):
            return False
        if isinstance(codec, IntegerCodec):
            # A last group that is shorter has no place in these layouts.
            divides = codec.group_size is None or tensor.matrix_shape[1] % codec.group_size == 0
            return divides and (codec.bits == 8 or not is_table(spec, name))
        return isinstance(codec, DenseCodec)

    def stored(self, spec: ModelSpec, name: str, codec: Codec) -> list[StoredTensor]:
        """Return the tensors of the layout."""
        if is_plain(codec):
            return plain_stored(spec, name, codec)
        shape = tensor_of(spec, name).matrix_shape
        parts = codec.parts(shape)
        module = module_name(spec, name)
        layout = layout_of(spec, name, codec)
        if layout == PACKED:
            packed = [StoredTensor(f"{module}.{part}", dtype, size) for part, (dtype, size) in parts.items()]
            return [*packed, StoredTensor(f"{module}.weight_shape", "I64", (2,))]
        weight = StoredTensor(f"{module}.weight", "I8" if layout == INTEGERS else "F8_E4M3", shape)
        dtype, size = parts[_SCALES]
        stored = [weight, StoredTensor(f"{module}.{_SCALES}", dtype, size)]
        return [*stored, StoredTensor(f"{module}.{_ZEROS}", "I8", size)] if _ZEROS in parts else stored

    def pack(
        self, spec: ModelSpec, name: str, codec: Codec, parts: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the arrays by stored name."""
        if is_plain(codec):
            return plain_pack(spec, name, codec, parts)
        shape = tensor_of(spec, name).matrix_shape
        arrays = dict(parts)
        layout = layout_of(spec, name, codec)
        if layout == PACKED:
            arrays["weight_shape"] = np.array(shape, dtype=np.int64)
        elif layout == INTEGERS:
            arrays["weight"] = unpack(arrays.pop("weight_packed"), 8, shape[1])
            if _ZEROS in arrays:
                arrays[_ZEROS] = np.ascontiguousarray(unpack(np.ascontiguousarray(arrays[_ZEROS].T), 8, shape[0]).T)
        module = module_name(spec, name)
        return {f"{module}.{part}": array for part, array in arrays.items()}

    def config(self, spec: ModelSpec, config: Mapping[str, Any], codecs: Mapping[str, Codec]) -> dict[str, Any]:
        """Return the config with one group for each scheme and every other matrix under `ignore`."""
        changed = base_config(spec, config, codecs)
        schemes: dict[tuple[str, str], tuple[dict[str, Any], list[str]]] = {}
        for name, codec in codecs.items():
            if not is_plain(codec):
                layout, arguments = layout_of(spec, name, codec), _arguments(codec)
                scheme = schemes.setdefault((layout, str(arguments)), (arguments, []))
                scheme[1].append(module_name(spec, name))
        if not schemes:
            return changed
        layouts = {layout for layout, _ in schemes}
        changed["quantization_config"] = {
            "quant_method": QUANT_METHOD,
            "format": layouts.pop() if len(schemes) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "global_compression_ratio": None,
            "kv_cache_scheme": None,
            # Unpacked while loading. By default it waits for the model to be called, which callers of `forward`
            # such as sentence-transformers never do.
            "dequantize": True,
            "ignore": _ignored(spec, {module for _, modules in schemes.values() for module in modules}),
            "config_groups": {
                f"group_{number}": {
                    "targets": make_targets(spec, modules),
                    "format": layout,
                    "weights": arguments,
                    "input_activations": None,
                    "output_activations": None,
                }
                for number, ((layout, _), (arguments, modules)) in enumerate(schemes.items())
            },
        }
        return changed


def is_table(spec: ModelSpec, name: str) -> bool:
    """Tell whether a tensor of the result is an embedding table; a head that was tied to one is not."""
    return name not in spec.ties and tensor_of(spec, name).kind == "embedding"


def layout_of(spec: ModelSpec, name: str, codec: Codec) -> str:
    """Return the layout a tensor is written in."""
    if isinstance(codec, DenseCodec):
        return FLOATS
    return INTEGERS if is_table(spec, name) else PACKED


def _ignored(spec: ModelSpec, encoded: set[str]) -> list[str]:
    matrices = [name for name, tensor in spec.tensors.items() if tensor.kind in ("linear", "embedding")]
    heads = [alias for alias in spec.ties if alias.endswith(".weight")]
    modules = [module_name(spec, name) for name in [*matrices, *heads]]
    return [module for module in modules if module not in encoded]


def _arguments(codec: Codec) -> dict[str, Any]:
    floats = isinstance(codec, DenseCodec)
    group = codec.group_size if isinstance(codec, IntegerCodec) else None
    return {
        "num_bits": codec.bits if isinstance(codec, IntegerCodec) else 8,
        "type": "float" if floats else "int",
        "symmetric": floats or (isinstance(codec, IntegerCodec) and codec.symmetric),
        "strategy": "channel" if group is None else "group",
        "group_size": group,
        "dynamic": False,
    }
