"""Quantized folders read by the names and shapes of what they store: which parts stand for which matrix.

Nothing here depends on the release that wrote a folder: the layouts of compressed-tensors, GPTQ, AWQ, bitsandbytes,
FP8 with block scales, NVFP4 and MXFP4 each have endings of names of their own, and their shapes tell the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steelyard.errors import UserError
from steelyard.spec.reading import Shapes
from steelyard.weigh.holding import Holding, PartKind
from steelyard.weights.dtypes import DTYPES

Read = Callable[[str], np.ndarray]
"""Reads one small stored tensor."""

_PLAIN = ("F64", "F32", "F16", "BF16")

# Endings of what lies beside a matrix `MODULE.weight`, and what it is.
_BESIDE: dict[str, PartKind] = {
    "weight_scale": "scales",
    "weight_scale_inv": "scales",
    "weight_scale_2": "scales",
    "weight_global_scale": "scales",
    "scales": "scales",
    "SCB": "scales",
    "weight.absmax": "scales",
    "weight.nested_absmax": "scales",
    "weight_zero_point": "zero_points",
    "qzeros": "zero_points",
    "weight_shape": "overhead",
    "weight_g_idx": "overhead",
    "g_idx": "overhead",
    "weight_format": "overhead",
    "weight.quant_map": "overhead",
    "weight.nested_quant_map": "overhead",
    "input_scale": "overhead",
    "input_zero_point": "overhead",
    "input_global_scale": "overhead",
    "activation_scale": "overhead",
    "output_scale": "overhead",
}
_PACKED = ("weight_packed", "qweight", "weight")
_STATE = ".weight.quant_state."
# Scales of the key-value cache belong to an attention, not to a matrix.
_LOOSE = (".k_scale", ".v_scale", ".q_scale")


@dataclass
class _Parts:
    """What was found of one matrix: the name of each part, by its ending."""

    names: dict[str, str] = field(default_factory=dict)
    state: str = ""

    @property
    def packed(self) -> str:
        return next((ending for ending in _PACKED if ending in self.names), "")


def read_packed(shapes: Shapes, read: Read, config: Mapping[str, Any]) -> dict[str, Holding]:
    """Return what stands for every tensor of the model, by the name of the model's tensor.

    Args:
        shapes: shape and element type of every stored tensor.
        read: reads a small stored tensor, such as a `weight_shape` or bitsandbytes' description of a matrix.
        config: as read from config.json.

    Raises:
        UserError: if the parts of a matrix contradict each other.
    """
    modules = _modules(shapes)
    holdings: dict[str, Holding] = {}
    taken: set[str] = set()
    for module, parts in modules.items():
        found = _matrix(module, parts, shapes, read, config)
        if found is not None:
            holdings[found.name] = found
            taken.update(found.stored)
    for name in shapes:
        if name.endswith("_blocks") and f"{name.removesuffix('_blocks')}_scales" in shapes:
            found = _blocks(name, shapes)
            holdings[found.name] = found
            taken.update(found.stored)
    for name, (shape, dtype) in shapes.items():
        if name not in taken:
            holdings[name] = plain(name, shape, dtype)
    return holdings


def plain(name: str, shape: tuple[int, ...], dtype: str) -> Holding:
    """Return a tensor that is stored as its numbers themselves."""
    return Holding(name, tuple(shape), dtype, (name,), DTYPES[dtype].nbytes(shape), plain=dtype in _PLAIN)


def is_loose_scale(name: str) -> bool:
    """Whether a stored tensor scales a key-value cache rather than a matrix."""
    return name.endswith(_LOOSE)


def _modules(shapes: Shapes) -> dict[str, _Parts]:
    """The modules with something beside a matrix that is not plain floats."""
    modules: dict[str, _Parts] = {}
    for name in shapes:
        module, _, ending = name.rpartition(".")
        if module.endswith(".weight"):
            module, ending = module.removesuffix(".weight"), f"weight.{ending}"
        if _STATE in name:
            module = name.partition(_STATE)[0]
            modules.setdefault(module, _Parts()).state = name
        elif ending in _BESIDE:
            modules.setdefault(module, _Parts()).names[ending] = name
    for module, parts in modules.items():
        for ending in _PACKED:
            if f"{module}.{ending}" in shapes:
                parts.names[ending] = f"{module}.{ending}"
    return modules


def _matrix(module: str, parts: _Parts, shapes: Shapes, read: Read, config: Mapping[str, Any]) -> Holding | None:
    packed = parts.packed
    if not packed:
        return None
    shape, dtype = shapes[parts.names[packed]]
    if packed == "weight" and dtype in _PLAIN:
        return None
    if packed == "weight_packed":
        logical, encoding = _compressed(module, parts, shapes, read, config)
    elif packed == "qweight":
        logical, encoding = _transposed(module, parts, shapes)
    elif "weight.absmax" in parts.names or parts.state:
        logical, encoding = _four_bit(module, parts, shape, read)
    elif dtype == "U8" and (scale := _first(parts, shapes, "weight_scale")) and len(scale) == len(shape) == 2:
        logical, encoding = (shape[0], 2 * shape[1]), f"fp4 {_grouping((shape[0], 2 * shape[1]), scale)}"
    else:
        scale = _first(parts, shapes, "weight_scale", "weight_scale_inv", "SCB")
        name = "int8" if dtype in ("I8", "U8") else "fp8" if dtype.startswith("F8") else dtype.lower()
        logical, encoding = shape, f"{name} {_grouping(shape, scale)}".strip()
    sizes: dict[PartKind, int] = {"weights": 0, "scales": 0, "zero_points": 0, "overhead": 0}
    stored = list(parts.names.items()) + ([("", parts.state)] if parts.state else [])
    for ending, name in stored:
        part_shape, part_dtype = shapes[name]
        kind: PartKind = "weights" if ending == packed else _BESIDE.get(ending, "overhead")
        sizes[kind] += DTYPES[part_dtype].nbytes(part_shape)
    return Holding(
        f"{module}.weight", tuple(logical), encoding, tuple(name for _, name in stored), **sizes, plain=False
    )


def _compressed(
    module: str, parts: _Parts, shapes: Shapes, read: Read, config: Mapping[str, Any]
) -> tuple[tuple[int, ...], str]:
    """compressed-tensors: words of codes, and the true shape beside them; two FP4 codes to a byte without one."""
    shape, dtype = shapes[parts.names["weight_packed"]]
    if not shape:
        raise UserError(f"{module}.weight_packed is a single number, which packs no matrix; download it again")
    scale = _first(parts, shapes, "weight_scale")
    if dtype == "U8":
        logical = (*shape[:-1], 2 * shape[-1])
        return logical, f"fp4 {_grouping(logical, scale)}"
    told = parts.names.get("weight_shape")
    if told is not None:
        logical = tuple(int(size) for size in read(told).reshape(-1).tolist())
        words = max(1, shape[-1])
        if not logical or min(logical) < 1:
            raise UserError(f"{told} says {list(logical)}, which is no shape; download the weights again")
        bits = _packed_bits(logical[-1], words)
        if bits is None:
            raise UserError(
                f"{told} says {list(logical)}, but {module}.weight_packed has shape {list(shape)}, in which no "
                "codes of 1 to 8 bits lie so; download the weights again"
            )
    else:
        bits = _declared_bits(config)
        logical = (*shape[:-1], shape[-1] * 32 // bits)
    return logical, f"int{bits} {_grouping(logical, scale)}"


def _packed_bits(columns: int, words: int) -> int | None:
    dense = [bits for bits in range(1, 9) if -(-columns * bits // 32) == words]
    whole = [bits for bits in range(1, 9) if -(-columns // (32 // bits)) == words]
    # Both fit where codes fill words exactly; the common width first where a short row leaves a choice.
    found = dense or whole
    return next((bits for bits in (4, 8, 2, 3) if bits in found), found[0] if found else None)


def _declared_bits(config: Mapping[str, Any]) -> int:
    quantization = config.get("quantization_config")
    quantization = quantization if isinstance(quantization, Mapping) else {}
    groups = quantization.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping) and weights.get("num_bits") in range(1, 9):
            return int(weights["num_bits"])
    bits = quantization.get("bits")
    return bits if isinstance(bits, int) and bits in range(1, 9) else 4


def _transposed(module: str, parts: _Parts, shapes: Shapes) -> tuple[tuple[int, ...], str]:
    """GPTQ packs along the input, [in * bits / 32, out]; AWQ along the output, [in, out * bits / 32]."""
    rows, columns = _two(f"{module}.qweight", shapes[parts.names["qweight"]][0])
    scale = _first(parts, shapes, "scales")
    if scale is None:
        raise UserError(f"{module}.qweight has no {module}.scales beside it; download the weights again")
    groups, outputs = _two(f"{module}.scales", scale)
    if columns == outputs:
        zeros = _first(parts, shapes, "qzeros")
        told = _first(parts, shapes, "g_idx")
        inputs = told[0] if told else 0
        bits = 32 * rows // inputs if inputs else 32 * zeros[-1] // outputs if zeros else 4
        inputs = inputs or 32 * rows // max(bits, 1)
    else:
        inputs, bits = rows, 32 * columns // max(outputs, 1)
    if bits not in range(1, 9):
        raise UserError(
            f"{module}: qweight {[rows, columns]} and scales {[groups, outputs]} fit no codes of 1 to 8 bits; "
            "download the weights again"
        )
    group = "row" if groups <= 1 else f"g{-(-inputs // groups)}"
    return (outputs, inputs), f"int{bits} {group}"


def _four_bit(module: str, parts: _Parts, shape: tuple[int, ...], read: Read) -> tuple[tuple[int, ...], str]:
    """bitsandbytes: two codes to a byte, and a JSON text with the true shape stored as a tensor of bytes."""
    if not parts.state:
        return (2 * int(np.prod(shape)),), "4-bit"
    try:
        state = json.loads(bytes(read(parts.state)).decode())
        logical = tuple(int(size) for size in state["shape"])
        kind, block = str(state.get("quant_type", "4-bit")), state.get("blocksize")
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{parts.state} does not describe {module}.weight; download the weights again") from None
    return logical, f"{kind} b{block}" if block else kind


def _blocks(name: str, shapes: Shapes) -> Holding:
    """MXFP4: blocks of two FP4 codes to a byte, and one exponent a block."""
    base = name.removesuffix("_blocks")
    shape, dtype = shapes[name]
    scale_shape, scale_dtype = shapes[f"{base}_scales"]
    logical = (*shape[:-2], 2 * shape[-2] * shape[-1]) if len(shape) > 1 else (2 * shape[0],)
    return Holding(
        base,
        logical,
        f"mxfp4 g{2 * shape[-1]}",
        (name, f"{base}_scales"),
        DTYPES[dtype].nbytes(shape),
        DTYPES[scale_dtype].nbytes(scale_shape),
        plain=False,
    )


def _first(parts: _Parts, shapes: Shapes, *endings: str) -> tuple[int, ...] | None:
    return next((tuple(shapes[parts.names[ending]][0]) for ending in endings if ending in parts.names), None)


def _two(name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2:
        raise UserError(f"{name} has shape {list(shape)}, which is no matrix; download the weights again")
    return shape[0], shape[1]


def _grouping(shape: tuple[int, ...], scale: tuple[int, ...] | None) -> str:
    """How many numbers share a scale: "g128", "row", "tensor", or "128x128" for blocks."""
    if scale is None or len(shape) < 2:
        return ""
    if int(np.prod(scale)) == 1:
        return "tensor"
    if len(scale) == 1 or scale[-1] == 1:
        return "row"
    columns = -(-shape[-1] // scale[-1])
    rows = -(-shape[-2] // scale[-2])
    return f"{rows}x{columns}" if rows > 1 else f"g{columns}"
