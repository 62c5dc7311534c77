"""compressed-tensors: integers, packed densely or (before June 2026) as whole codes to a word, and small floats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import (
    Codec,
    DenseCodec,
    IntegerCodec,
    MicroscalingCodec,
    Nvfp4Codec,
    Parts,
    pack,
    unpack,
)
from steelyard.errors import UserError
from steelyard.formats.compressed_tensors import FLOATS, INTEGERS, MXFP4, MXFP8, NVFP4, PACKED
from steelyard.formats.entry import Entry
from steelyard.formats.reading import fp8
from steelyard.formats.reading.common import matrix, order_of, permuted, present
from steelyard.formats.targets import matching
from steelyard.weights import Checkpoint

_GROUPS = "weight_g_idx"
_KEPT = ("weight_shape", "input_scale", "input_zero_point", "input_global_scale", _GROUPS)
_PACKED_FLOATS = (NVFP4, MXFP4)


def read(checkpoint: Checkpoint, quantization: Mapping[str, Any], where: str) -> dict[str, Entry]:
    """Return the encoded tensors of a folder.

    Raises:
        UserError: if no group declares one of them, or its layout cannot be read.
    """
    groups = quantization.get("config_groups") or {}
    targets = {target: group for group in groups.values() for target in group["targets"]}
    found = {}
    for name in checkpoint.names:
        module, _, part = name.rpartition(".")
        scaled = part == "weight" and f"{module}.weight_scale" in checkpoint
        if part != "weight_packed" and not scaled:
            continue
        # Which class a module has is not told by names; every packed one that nothing else matches is a linear map.
        matched = matching(targets, module, "Linear")
        if not matched:
            raise UserError(f"{where}: no group of quantization_config targets {module}; the folder is damaged")
        group = targets[matched[0]]
        layout = str(group.get("format") or quantization.get("format"))
        found[f"{module}.weight"] = _entry(checkpoint, module, group.get("weights") or {}, layout)
    return found


def _entry(checkpoint: Checkpoint, module: str, arguments: Mapping[str, Any], layout: str) -> Entry:
    kind, strategy = arguments.get("type"), arguments.get("strategy")
    first = "weight_packed" if layout in (PACKED, *_PACKED_FLOATS) else "weight"
    readable = {
        PACKED: kind == "int" and strategy in ("group", "channel"),
        INTEGERS: kind == "int" and strategy in ("group", "channel"),
        FLOATS: kind == "float" and strategy in ("channel", "tensor", "block", "group"),
        NVFP4: kind == "float",
        MXFP4: kind == "float",
        MXFP8: kind == "float",
    }.get(layout, False)
    if not readable or f"{module}.{first}" not in checkpoint:
        raise UserError(
            f"{checkpoint.location}: {module} is stored as {layout} by {strategy}; of compressed-tensors' layouts "
            f"{PACKED} and {INTEGERS} by group or channel, {FLOATS} by channel, tensor, group or block, {NVFP4}, "
            f"{MXFP4} and {MXFP8} can be read"
        )
    names = (first, "weight_scale", "weight_zero_point", "weight_global_scale", *_KEPT)
    stored = present(checkpoint, module, names)
    if kind == "int":
        return _integers(checkpoint, module, arguments, layout, stored)
    return _floats(checkpoint, arguments, layout, stored, first)


def _floats(
    checkpoint: Checkpoint, arguments: Mapping[str, Any], layout: str, stored: dict[str, str], first: str
) -> Entry:
    info = checkpoint.info(stored[first])
    rows, columns = matrix(checkpoint, stored[first], info.shape)
    group = arguments.get("group_size")
    if layout == FLOATS:
        return _float8(checkpoint, arguments, stored, (rows, columns))
    codec: Codec
    if layout == NVFP4:
        codec = Nvfp4Codec(group or 16)
    else:
        codec = MicroscalingCodec("F4_E2M1" if layout == MXFP4 else info.dtype, group or 32)
    shape = (rows, columns if layout == MXFP8 else 2 * columns)
    return Entry(codec, shape, stored, layout, _float_parts)


def _float8(
    checkpoint: Checkpoint, arguments: Mapping[str, Any], stored: dict[str, str], shape: tuple[int, int]
) -> Entry:
    weight, scale = checkpoint.info(stored["weight"]), checkpoint.info(stored["weight_scale"])
    strategy = arguments["strategy"]
    if strategy in ("channel", "tensor") and weight.dtype == "F8_E4M3":
        return Entry(DenseCodec("F8_E4M3"), shape, stored, FLOATS, _row_scales)
    block = {
        "block": arguments.get("block_structure"),
        "group": [1, arguments.get("group_size")],
    }.get(strategy)
    codec = fp8.float8(weight.dtype, shape, scale.shape, scale.dtype, block)
    if codec is None:
        raise UserError(f"{checkpoint.location}: {scale.name} fits no blocks of {block} in {list(shape)}")
    return Entry(codec, shape, stored, FLOATS, fp8.parts)


def _row_scales(entry: Entry, arrays: Mapping[str, np.ndarray]) -> Parts:
    wide = arrays["weight_scale"].astype(np.float32).reshape(-1, 1)
    scale = np.ascontiguousarray(np.broadcast_to(wide, (entry.shape[0], 1)))
    return {"weight": arrays["weight"], "weight_scale": scale}


def _float_parts(entry: Entry, arrays: Mapping[str, np.ndarray]) -> Parts:
    expected = entry.codec.parts(entry.shape)
    if missing := [part for part in expected if part not in arrays]:
        raise UserError(f"{next(iter(entry.stored.values()))} has no {missing[0]} beside it; download it again")
    return {part: arrays[part].reshape(size) for part, (_, size) in expected.items()}


def _integers(
    checkpoint: Checkpoint, module: str, arguments: Mapping[str, Any], layout: str, stored: dict[str, str]
) -> Entry:
    base = IntegerCodec(
        bits=arguments["num_bits"],
        group_size=arguments["group_size"] if arguments["strategy"] == "group" else None,
        symmetric="weight_zero_point" not in stored,
        scale_dtype=checkpoint.info(stored["weight_scale"]).dtype,
    )
    if layout == INTEGERS:
        info = checkpoint.info(stored["weight"])
        shape, padded = matrix(checkpoint, stored["weight"], info.shape), False
    else:
        shape, padded = _packed_shape(checkpoint, module, base, stored)
    order = None
    if _GROUPS in stored:
        order = order_of(checkpoint.tensor(stored[_GROUPS]), base.group_size, f"{checkpoint.location}: {module}")

    def translate(entry: Entry, arrays: Mapping[str, np.ndarray]) -> Parts:
        return _integer_parts(base, order, arrays, entry.shape, padded)

    return Entry(permuted(base, order), shape, stored, layout, translate)


def _packed_shape(
    checkpoint: Checkpoint, module: str, codec: IntegerCodec, stored: Mapping[str, str]
) -> tuple[tuple[int, int], bool]:
    """Return the shape, and whether whole codes fill the words."""
    info = checkpoint.info(stored["weight_packed"])
    told = f"{module}.weight_shape"
    shape = matrix(checkpoint, told, checkpoint.tensor(told).tolist())
    dense, padded = codec.parts(shape)["weight_packed"][1], (shape[0], -(-shape[1] // (32 // codec.bits)))
    if info.shape not in (dense, padded):
        raise UserError(
            f"{checkpoint.location}: {info.name} has shape {list(info.shape)}, but {list(shape)} at {codec.bits} "
            f"bits takes {list(dense)}, or {list(padded)} as older releases packed; download it again"
        )
    return shape, info.shape != dense


def _integer_parts(
    codec: IntegerCodec,
    order: np.ndarray | None,
    arrays: Mapping[str, np.ndarray],
    shape: tuple[int, int],
    padded: bool,
) -> Parts:
    packed, scale, zero = (arrays.get(part) for part in ("weight_packed", "weight_scale", "weight_zero_point"))
    assert scale is not None
    if packed is not None and not padded and order is None:
        found = {"weight_packed": packed, "weight_scale": scale}
        return found if zero is None else {**found, "weight_zero_point": zero}
    if packed is None:
        codes = arrays["weight"]
        zero = None if zero is None else pack(np.ascontiguousarray(zero.T), codec.bits).T
    elif padded:
        codes = unpack_padded(packed, codec.bits, shape[1])
        zero = None if zero is None else pack(unpack_padded(zero.T, codec.bits, shape[0]), codec.bits).T
    else:
        codes = unpack(packed, codec.bits, shape[1])
    codes = codes if order is None else np.ascontiguousarray(codes[:, order])
    found = {"weight_packed": pack(codes, codec.bits), "weight_scale": scale}
    if zero is not None:
        found["weight_zero_point"] = np.ascontiguousarray(zero)
    return found if order is None else {**found, "column_order": order.reshape(1, -1)}


def unpack_padded(packed: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """Return int8 codes [rows, columns] of words that each hold 32 // bits whole codes, the rest of it unused."""
    each = 32 // bits
    words = packed.astype(np.int64)
    fields = (words[:, :, None] >> (bits * np.arange(each))) & ((1 << bits) - 1)
    codes = fields.reshape(packed.shape[0], -1)[:, :columns] - (1 << (bits - 1))
    return np.ascontiguousarray(codes, dtype=np.int8)
