"""How each encoded tensor of a folder is stored: read from its config and the headers of its weight files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from steelyard import codecs
from steelyard.errors import UserError
from steelyard.formats.compressed_tensors import QUANT_METHOD as COMPRESSED
from steelyard.formats.entry import BLOB, Entry
from steelyard.formats.native import QUANT_METHOD as NATIVE
from steelyard.formats.native import require_version
from steelyard.formats.reading import awq, bitsandbytes, compressed, fp8, gptq
from steelyard.weights import Checkpoint

Reader = Callable[[Checkpoint, Mapping[str, Any], str], dict[str, Entry]]
"""Takes the folder, its quantization_config and the name of its config file."""


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
    reader = READERS.get(str(method))
    if reader is None:
        raise UserError(
            f"{checkpoint.location} is quantized by {method!r}; weights can be read from plain folders and from "
            f"those of {', '.join(READERS)}"
        )
    found = reader(checkpoint, quantization, where)
    if not found and method not in (NATIVE, COMPRESSED):
        raise UserError(f"{where} says that the weights are quantized by {method}, but no tensor is; correct it")
    return found


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
        found[name] = Entry(codec, (rows, columns), {BLOB: name}, transposed=bool(item.get("transposed")))
    return found


READERS: Mapping[str, Reader] = {
    NATIVE: _native,
    COMPRESSED: compressed.read,
    "gptq": gptq.read,
    "auto-round": gptq.read,
    "awq": awq.read,
    "bitsandbytes": bitsandbytes.read,
    "fp8": fp8.read,
}
"""By `quant_method`."""
