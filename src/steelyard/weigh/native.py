"""Folders in Steelyard's own format: every encoded matrix is a row of bytes whose parts its codec knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.errors import UserError
from steelyard.spec.reading import Shapes
from steelyard.weigh.holding import Holding, PartKind
from steelyard.weigh.packed import plain
from steelyard.weights.dtypes import DTYPES


def read_native(shapes: Shapes, quantization: Mapping[str, Any], where: str) -> dict[str, Holding]:
    """Return what stands for every tensor of the model.

    Args:
        shapes: shape and element type of every stored tensor.
        quantization: `quantization_config` of config.json.
        where: the config, for messages.

    Raises:
        UserError: if the config describes an encoded matrix that the files do not hold so.
    """
    tensors = quantization.get("tensors")
    if not isinstance(tensors, Mapping):
        raise UserError(f"{where}: quantization_config has no tensors; download it again")
    return {
        name: _encoded(name, shape, tensors[name], where) if name in tensors else plain(name, shape, dtype)
        for name, (shape, dtype) in shapes.items()
    }


def _encoded(name: str, stored: tuple[int, ...], item: Any, where: str) -> Holding:
    from steelyard import codecs

    try:
        rows, columns = (int(size) for size in item["shape"])
        codec = codecs.from_dict(item["codec"])
        parts = codec.parts((rows, columns))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{where}: the entry of {name} describes no encoded matrix; download it again") from None
    sizes: dict[PartKind, int] = {"weights": 0, "scales": 0, "zero_points": 0, "overhead": 0}
    for part, (dtype, shape) in parts.items():
        sizes[_kind(part)] += DTYPES[dtype].nbytes(shape)
    if sum(sizes.values()) != stored[0] or len(stored) != 1:
        raise UserError(
            f"{where}: {name} takes {sum(sizes.values()):,} bytes as {codec.label}, but the files hold "
            f"{list(stored)}; download them again"
        )
    shape = (columns, rows) if item.get("transposed") else (rows, columns)
    return Holding(name, shape, codec.label, (name,), **sizes, plain=False)


def _kind(part: str) -> PartKind:
    return "zero_points" if "zero" in part else "scales" if "scale" in part else "weights"
