"""The ecosystem's format: compressed-tensors, each matrix in the layout of it that plain transformers loads.

| tensor | codec | layout |
| --- | --- | --- |
| linear map | integers of 2 to 8 bits | `pack-quantized`: weight_packed, _scale, _shape, _zero_point |
| embedding table | integers of 8 bits | `int-quantized`: weight (I8), weight_scale, weight_zero_point |
| either | 8-bit floats | `float-quantized`: weight (F8_E4M3), weight_scale |
| linear map | NVFP4 | `nvfp4-pack-quantized`: weight_packed (U8), weight_scale (F8_E4M3), weight_global_scale |
| linear map | MXFP4, MXFP8 | `mxfp4-pack-quantized`, `mxfp8-quantized`: elements, weight_scale (U8) |

The loader needs a `weight` in an embedding table, so a packed one fails; and a tied table fails in every layout.
A tied pair is therefore left as it is, or written apart with `tie_word_embeddings` off. Scales are cast to the
model's type on loading, so only types that survive the cast are taken. docs/formats/compressed-tensors.md has how
each of these facts was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import (
    Codec,
    DenseCodec,
    Float8Codec,
    IntegerCodec,
    MicroscalingCodec,
    Nvfp4Codec,
    unpack,
)
from steelyard.formats.base import (
    base_config,
    is_plain,
    is_replaceable,
    load_dtype,
    loads_exactly,
    plain_pack,
    plain_stored,
    tensor_of,
)
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
        if not is_replaceable(spec, name):
            return False
        if isinstance(codec, Nvfp4Codec | MicroscalingCodec | Float8Codec):
            return not is_table(spec, name) and _loads_floats(spec, codec, tensor.matrix_shape)
        scales = codec.parts(tensor.matrix_shape).get(_SCALES)
        if scales is None or not loads_exactly(spec, scales[0]):
            return False
        if isinstance(codec, IntegerCodec):
            # A last group that is shorter has no place in these layouts, nor have the two levels of 1 bit.
            divides = codec.group_size is None or tensor.matrix_shape[1] % codec.group_size == 0
            return codec.bits > 1 and divides and (codec.bits == 8 or not is_table(spec, name))
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
        if isinstance(codec, Nvfp4Codec | MicroscalingCodec | Float8Codec):
            return [
                StoredTensor(f"{module}.{part}", dtype, _one_axis(size)) for part, (dtype, size) in parts.items()
            ]
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
        elif isinstance(codec, Nvfp4Codec | MicroscalingCodec | Float8Codec):
            arrays = {part: array.reshape(_one_axis(array.shape)) for part, array in arrays.items()}
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
    if isinstance(codec, DenseCodec | Float8Codec):
        return FLOATS
    if isinstance(codec, Nvfp4Codec):
        return NVFP4
    if isinstance(codec, MicroscalingCodec):
        return MXFP4 if codec.element == "F4_E2M1" else MXFP8
    return INTEGERS if is_table(spec, name) else PACKED


def _ignored(spec: ModelSpec, encoded: set[str]) -> list[str]:
    matrices = [name for name, tensor in spec.tensors.items() if tensor.kind in ("linear", "embedding")]
    heads = [alias for alias in spec.ties if alias.endswith(".weight")]
    modules = [module_name(spec, name) for name in [*matrices, *heads]]
    return [module for module in modules if module not in encoded]


def _loads_floats(spec: ModelSpec, codec: Codec, shape: tuple[int, int]) -> bool:
    """Tell whether small floats under scales of their own load exactly.

    The loader decodes what has powers of two for scales, and 4-bit floats, in bfloat16, whatever the model is in.
    """
    if isinstance(codec, Nvfp4Codec):
        return load_dtype(spec) == "BF16" and codec.group_size == 16 and shape[1] % 16 == 0
    if isinstance(codec, MicroscalingCodec):
        exact = load_dtype(spec) == "BF16" and codec.element != "F8_E5M2"
        return exact and codec.group_size == 32 and shape[1] % 32 == 0
    if isinstance(codec, Float8Codec) and codec.dtype == "F8_E4M3" and codec.scale_dtype != "F8_E8M0":
        sides = zip(shape, (codec.rows, codec.columns), strict=True)
        whole = all(side is None or size % side == 0 for size, side in sides)
        known = (codec.rows, codec.columns) in ((None, None), (1, None)) or None not in (codec.rows, codec.columns)
        return whole and known and loads_exactly(spec, codec.scale_dtype)
    return False


def _one_axis(size: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) if size == (1, 1) else size


def _small_floats(codec: Codec) -> dict[str, Any]:
    if isinstance(codec, Nvfp4Codec):
        kind = {"num_bits": 4, "strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"}
    elif isinstance(codec, MicroscalingCodec):
        bits = 4 if codec.element == "F4_E2M1" else 8
        kind = {"num_bits": bits, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
    else:
        assert isinstance(codec, Float8Codec)
        strategy = "tensor" if codec.rows is None else "channel" if codec.columns is None else "block"
        kind = {"num_bits": 8, "strategy": strategy, "group_size": None}
        if strategy == "block":
            kind["block_structure"] = [codec.rows, codec.columns]
    return {"type": "float", "symmetric": True, "dynamic": False, **kind}


def _arguments(codec: Codec) -> dict[str, Any]:
    if isinstance(codec, Nvfp4Codec | MicroscalingCodec | Float8Codec):
        return _small_floats(codec)
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
