"""Any folder Steelyard can read, as the logical float tensors it stands for, by their original names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from steelyard import codecs
from steelyard.codecs import Codec, IntegerCodec, pack, split
from steelyard.errors import UserError
from steelyard.formats.compressed_tensors import INTEGERS, PACKED
from steelyard.formats.native import QUANT_METHOD, VERSION
from steelyard.weights import Checkpoint


@dataclass(frozen=True)
class Entry:
    """How one logical tensor is stored: its codec, its matrix shape, and the stored tensor of each part."""

    codec: Codec
    shape: tuple[int, int]
    stored: Mapping[str, str]
    transposed: bool = False


class LogicalCheckpoint:
    """Logical tensors of a dense, compressed-tensors (integers) or native folder.

    Use it in a `with` block or call `close`.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.entries: dict[str, Entry] = _entries(checkpoint)
        parts = {stored for entry in self.entries.values() for stored in entry.stored.values()}
        shapes = {f"{name.removesuffix('.weight')}.weight_shape" for name in self.entries}
        self._names = [name for name in checkpoint.names if name not in parts and name not in shapes]
        self._names += [name for name in self.entries if name not in self._names]

    @classmethod
    def open(cls, location: str | Path) -> LogicalCheckpoint:
        """Open a folder.

        Raises:
            UserError: if it is damaged, or quantized in a way that cannot be read yet.
        """
        checkpoint = Checkpoint.open(location)
        try:
            return cls(checkpoint)
        except BaseException:
            checkpoint.close()
            raise

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json without its quantization."""
        return {key: value for key, value in self.checkpoint.config.items() if key != "quantization_config"}

    @property
    def names(self) -> list[str]:
        """Names of the logical tensors."""
        return list(self._names)

    def codec(self, name: str) -> Codec | None:
        """Return the codec of a tensor, None where it is stored as plain numbers."""
        entry = self.entries.get(name)
        return None if entry is None else entry.codec

    def stored_bytes(self, name: str) -> int:
        """Return the bytes of data that stand for a tensor."""
        entry = self.entries.get(name)
        stored = [name] if entry is None else list(entry.stored.values())
        return sum(self.checkpoint.info(part).nbytes for part in stored)

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor: float32 where it was encoded, else as it is stored."""
        entry = self.entries.get(name)
        if entry is None:
            return self.checkpoint.tensor(name)
        weight = entry.codec.decode(self.parts(name), entry.shape)
        return np.ascontiguousarray(weight.T) if entry.transposed else weight

    def parts(self, name: str) -> dict[str, np.ndarray]:
        """Return the parts of an encoded tensor."""
        entry = self.entries[name]
        if "blob" in entry.stored:
            return split(self.checkpoint.tensor(entry.stored["blob"]), entry.codec, entry.shape)
        parts = {part: self.checkpoint.tensor(stored) for part, stored in entry.stored.items()}
        if parts["weight_packed"].dtype == np.int8:
            parts["weight_packed"] = pack(parts["weight_packed"], 8)
        return parts

    def close(self) -> None:
        """Let go of the files."""
        self.checkpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _entries(checkpoint: Checkpoint) -> dict[str, Entry]:
    quantization = checkpoint.config.get("quantization_config")
    if not quantization:
        return {}
    method = quantization.get("quant_method")
    if method == QUANT_METHOD:
        return _native(checkpoint, quantization)
    if method == "compressed-tensors":
        return _compressed(checkpoint, quantization)
    raise UserError(
        f"{checkpoint.location} is quantized by {method!r}; weights can be read from plain, compressed-tensors "
        "(integers) and steelyard folders so far"
    )


def _native(checkpoint: Checkpoint, quantization: Mapping[str, Any]) -> dict[str, Entry]:
    if quantization.get("version") != VERSION:
        raise UserError(
            f"{checkpoint.location} is of version {quantization.get('version')} of the steelyard format, "
            f"this program reads version {VERSION}; update steelyard"
        )
    found = {}
    for name, item in quantization["tensors"].items():
        rows, columns = item["shape"]
        codec = codecs.from_dict(item["codec"])
        if name not in checkpoint:
            raise UserError(f"{checkpoint.location}: the config declares {name}, which no weight file holds")
        found[name] = Entry(codec, (rows, columns), {"blob": name}, bool(item.get("transposed")))
    return found


def _compressed(checkpoint: Checkpoint, quantization: Mapping[str, Any]) -> dict[str, Entry]:
    found = {}
    for name in checkpoint.names:
        module, _, part = name.rpartition(".")
        if part == "weight_packed":
            shape = tuple(int(size) for size in checkpoint.tensor(f"{module}.weight_shape"))
        elif part == "weight" and f"{module}.weight_scale" in checkpoint:
            shape = checkpoint.info(name).shape
        else:
            continue
        group = _group_of(checkpoint, quantization, module)
        layout = group.get("format") or quantization.get("format")
        stored = {"weight_packed": name, "weight_scale": f"{module}.weight_scale"}
        if f"{module}.weight_zero_point" in checkpoint:
            stored["weight_zero_point"] = f"{module}.weight_zero_point"
        codec = _codec(checkpoint, module, group, layout, stored)
        expected = codec.parts(shape)["weight_packed"][1]
        if part == "weight_packed" and checkpoint.info(name).shape != expected:
            raise UserError(
                f"{checkpoint.location}: {name} has shape {list(checkpoint.info(name).shape)}, dense packing of "
                f"{list(shape)} at {codec.bits} bits has {list(expected)}; quantize again with a "
                "compressed-tensors release after May 2026"
            )
        found[f"{module}.weight"] = Entry(codec, (shape[0], shape[1]), stored)
    return found


def _codec(
    checkpoint: Checkpoint, module: str, group: Mapping[str, Any], layout: Any, stored: Mapping[str, str]
) -> IntegerCodec:
    arguments = group["weights"]
    if layout not in (PACKED, INTEGERS) or arguments.get("type") != "int":
        raise UserError(
            f"{checkpoint.location}: {module} is stored as {layout}; of compressed-tensors' layouts {PACKED} and "
            f"8-bit {INTEGERS} can be read so far"
        )
    if f"{module}.weight_g_idx" in checkpoint:
        raise UserError(
            f"{checkpoint.location}: {module} is stored in activation order (weight_g_idx), a retired layout"
        )
    return IntegerCodec(
        bits=arguments["num_bits"],
        group_size=arguments["group_size"] if arguments["strategy"] == "group" else None,
        symmetric="weight_zero_point" not in stored,
        scale_dtype=checkpoint.info(stored["weight_scale"]).dtype,
    )


def _group_of(checkpoint: Checkpoint, quantization: Mapping[str, Any], module: str) -> Mapping[str, Any]:
    """Return the config group that targets a module: exact names first, then expressions, then class names."""
    groups: list[Mapping[str, Any]] = list(quantization.get("config_groups", {}).values())
    for group in groups:
        if module in group["targets"]:
            return group
    for group in groups:
        if any(t.startswith("re:") and re.match(t[3:], module) for t in group["targets"]):
            return group
    for group in groups:
        if any(fnmatch.fnmatch("Linear", target) for target in group["targets"]):
            return group
    raise UserError(
        f"{checkpoint.location}: no group of quantization_config targets {module}; the folder is damaged"
    )
