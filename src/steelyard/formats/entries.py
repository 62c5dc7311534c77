"""How each encoded tensor of a folder is stored: read from its config and the headers of its weight files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard import codecs
from steelyard.codecs import Codec, DenseCodec, IntegerCodec, pack, split
from steelyard.errors import UserError
from steelyard.formats.compressed_tensors import FLOATS, INTEGERS, PACKED
from steelyard.formats.compressed_tensors import QUANT_METHOD as COMPRESSED
from steelyard.formats.native import QUANT_METHOD as NATIVE
from steelyard.formats.native import require_version
from steelyard.formats.targets import matching
from steelyard.weights import Checkpoint

_RETIRED = "weight_g_idx"


@dataclass(frozen=True)
class Entry:
    """One encoded tensor.

    Attributes:
        codec: how it is encoded.
        shape: of its matrix, (out, in).
        stored: the stored tensor of each part, or of "blob" for all of them.
        layout: of compressed-tensors, "" for a blob.
        transposed: the model has it as [in, out].
        padded: packed as compressed-tensors did before June 2026, whole codes to a word.
    """

    codec: Codec
    shape: tuple[int, int]
    stored: Mapping[str, str]
    layout: str = ""
    transposed: bool = False
    padded: bool = False

    def parts(self, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
        """Read the parts as the codec has them."""
        if not self.layout:
            return split(checkpoint.tensor(self.stored["blob"]), self.codec, self.shape)
        parts = {part: checkpoint.tensor(name) for part, name in self.stored.items()}
        scale = parts["weight_scale"]
        if not isinstance(self.codec, IntegerCodec):
            wide = scale.astype(np.float32).reshape(-1, 1)
            return {**parts, "weight_scale": np.ascontiguousarray(np.broadcast_to(wide, (self.shape[0], 1)))}
        if self.layout == PACKED and not self.padded:
            return parts
        codes, zero = parts[self._codes], parts.get("weight_zero_point")
        bits = self.codec.bits
        if self.padded:
            codes = unpack_padded(codes, bits, self.shape[1])
            zero = None if zero is None else unpack_padded(zero.T, bits, self.shape[0]).T
        found = {"weight_packed": pack(codes, bits), "weight_scale": scale}
        return found if zero is None else {**found, "weight_zero_point": np.ascontiguousarray(pack(zero.T, bits).T)}

    @property
    def _codes(self) -> str:
        return "weight_packed" if self.layout == PACKED else "weight"


def unpack_padded(packed: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """Return int8 codes [rows, columns] of words that each hold 32 // bits whole codes, the rest of it unused."""
    each = 32 // bits
    words = packed.astype(np.int64)
    fields = (words[:, :, None] >> (bits * np.arange(each))) & ((1 << bits) - 1)
    codes = fields.reshape(packed.shape[0], -1)[:, :columns] - (1 << (bits - 1))
    return np.ascontiguousarray(codes, dtype=np.int8)


def read_entries(checkpoint: Checkpoint) -> dict[str, Entry]:
    """Return the encoded tensors of a folder by logical name; none for a folder of plain numbers.

    Raises:
        UserError: if it is damaged, or quantized in a way that cannot be read.
    """
    quantization = checkpoint.config.get("quantization_config")
    if not quantization:
        return {}
    where = f"{checkpoint.location}/config.json"
    if not isinstance(quantization, dict):
        raise UserError(f"{where}: quantization_config is not an object; download it again")
    method = quantization.get("quant_method")
    if method == NATIVE:
        return _native(checkpoint, quantization, where)
    if method == COMPRESSED:
        return _compressed(checkpoint, quantization, where)
    raise UserError(
        f"{checkpoint.location} is quantized by {method!r}; weights can be read from plain, {COMPRESSED} and "
        f"{NATIVE} folders"
    )


def _native(checkpoint: Checkpoint, quantization: Mapping[str, Any], where: str) -> dict[str, Entry]:
    require_version(where, quantization.get("version"))
    tensors = quantization.get("tensors")
    if not isinstance(tensors, dict):
        raise UserError(f"{where}: quantization_config has no tensors; download it again")
    found = {}
    for name, item in tensors.items():
        try:
            rows, columns = (int(size) for size in item["shape"])
            codec = codecs.from_dict(item["codec"])
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{where}: the entry of {name} describes no encoded matrix; download it again"
            ) from None
        if name not in checkpoint:
            raise UserError(f"{checkpoint.location}: the config declares {name}, which no weight file holds")
        found[name] = Entry(codec, (rows, columns), {"blob": name}, transposed=bool(item.get("transposed")))
    return found


def _compressed(checkpoint: Checkpoint, quantization: Mapping[str, Any], where: str) -> dict[str, Entry]:
    groups = quantization.get("config_groups") or {}
    targets = {target: group for group in groups.values() for target in group["targets"]}
    found = {}
    for name in checkpoint.names:
        module, _, part = name.rpartition(".")
        scaled = part == "weight" and f"{module}.weight_scale" in checkpoint
        if part != "weight_packed" and not scaled:
            continue
        if f"{module}.{_RETIRED}" in checkpoint:
            raise UserError(
                f"{checkpoint.location}: {module} is stored in activation order ({_RETIRED}), a retired layout"
            )
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
    first = "weight_packed" if layout == PACKED else "weight"
    readable = (layout in (PACKED, INTEGERS) and kind == "int" and strategy in ("group", "channel")) or (
        layout == FLOATS and kind == "float" and strategy in ("channel", "tensor")
    )
    if not readable or f"{module}.{first}" not in checkpoint:
        raise UserError(
            f"{checkpoint.location}: {module} is stored as {layout} by {strategy}; of compressed-tensors' layouts "
            f"{PACKED} and {INTEGERS} by group or channel and {FLOATS} by channel or tensor can be read"
        )
    names = (first, "weight_scale", "weight_zero_point")
    stored = {part: f"{module}.{part}" for part in names if f"{module}.{part}" in checkpoint}
    info = checkpoint.info(stored[first])
    if layout == FLOATS:
        return Entry(DenseCodec("F8_E4M3"), _matrix(checkpoint, stored[first], info.shape), stored, layout)
    codec = IntegerCodec(
        bits=arguments["num_bits"],
        group_size=arguments["group_size"] if strategy == "group" else None,
        symmetric="weight_zero_point" not in stored,
        scale_dtype=checkpoint.info(stored["weight_scale"]).dtype,
    )
    if layout == INTEGERS:
        return Entry(codec, _matrix(checkpoint, stored[first], info.shape), stored, layout)
    told = f"{module}.weight_shape"
    shape = _matrix(checkpoint, told, checkpoint.tensor(told).tolist())
    dense, padded = codec.parts(shape)["weight_packed"][1], (shape[0], -(-shape[1] // (32 // codec.bits)))
    if info.shape not in (dense, padded):
        raise UserError(
            f"{checkpoint.location}: {info.name} has shape {list(info.shape)}, but {list(shape)} at {codec.bits} "
            f"bits takes {list(dense)}, or {list(padded)} as older releases packed; download it again"
        )
    return Entry(codec, shape, stored, layout, padded=info.shape != dense)


def _matrix(checkpoint: Checkpoint, name: str, shape: Any) -> tuple[int, int]:
    if len(shape) != 2 or min(shape) < 1:
        raise UserError(f"{checkpoint.location}: {name} tells of a tensor {list(shape)}, which is no matrix")
    return int(shape[0]), int(shape[1])
