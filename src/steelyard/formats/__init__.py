"""How encoded tensors lie in a Hugging Face folder, how the config declares them, and the independent reader."""

from __future__ import annotations

from steelyard.errors import UserError
from steelyard.formats.base import Format
from steelyard.formats.compressed_tensors import CompressedTensorsFormat
from steelyard.formats.dense import DenseFormat
from steelyard.formats.gguf import GgufFormat
from steelyard.formats.native import NativeFormat

FORMATS: dict[str, Format] = {
    format.name: format for format in (CompressedTensorsFormat(), NativeFormat(), GgufFormat(), DenseFormat())
}


def get(name: str) -> Format:
    """Return the format of that name.

    Raises:
        UserError: naming all there are.
    """
    if name not in FORMATS:
        raise UserError(f"no format {name!r}; available: {', '.join(FORMATS)}")
    return FORMATS[name]


__all__ = ["FORMATS", "CompressedTensorsFormat", "DenseFormat", "Format", "GgufFormat", "NativeFormat", "get"]
