"""AWQ's gemm layout.

qweight I32 [in, out / 8] and qzeros I32 [groups, out / 8], eight 4-bit fields to a word of which field i is output
ORDER[i]; scales F16 [groups, out]. w[o, i] = (q - z) * s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import IntegerCodec, Parts
from steelyard.errors import UserError
from steelyard.formats.entry import Entry
from steelyard.formats.reading.common import group_size, integer_parts, modules_with, present
from steelyard.weights import Checkpoint

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The output, of the eight of a word, that each field holds, from the lowest bits up."""


def read(checkpoint: Checkpoint, quantization: Mapping[str, Any], where: str) -> dict[str, Entry]:
    """Return the encoded tensors of a folder.

    Raises:
        UserError: for another layout than gemm, other bits than 4, or parts that do not fit.
    """
    layout, bits = str(quantization.get("version", "gemm")).lower(), quantization.get("bits", 4)
    if layout != "gemm" or bits != 4:
        raise UserError(f"{where}: AWQ {layout} of {bits} bits; gemm of 4 bits can be read")
    return {
        f"{module}.weight": _entry(checkpoint, module, quantization)
        for module in modules_with(checkpoint, "qweight")
    }


def _entry(checkpoint: Checkpoint, module: str, quantization: Mapping[str, Any]) -> Entry:
    stored = present(checkpoint, module, ("qweight", "qzeros", "scales"))
    where = f"{checkpoint.location}: {module}"
    if len(stored) < 3:
        raise UserError(f"{where} lacks qzeros or scales; download the weights again")
    columns, words = checkpoint.info(stored["qweight"]).shape
    groups, out = checkpoint.info(stored["scales"]).shape
    if out != 8 * words or checkpoint.info(stored["qzeros"]).shape != (groups, words):
        raise UserError(f"{where} has parts that do not fit each other; download the weights again")
    size = group_size(columns, groups, quantization.get("group_size"), where)
    symmetric = quantization.get("zero_point") is False or bool(quantization.get("sym"))
    codec = IntegerCodec(4, size, symmetric, checkpoint.info(stored["scales"]).dtype)

    def translate(entry: Entry, arrays: Mapping[str, np.ndarray]) -> Parts:
        codes, zero = (unpack_words(arrays[part]).T for part in ("qweight", "qzeros"))
        scale = np.ascontiguousarray(arrays["scales"].T)
        return integer_parts(codec, np.ascontiguousarray(codes), np.ascontiguousarray(zero), scale, where)

    return Entry(codec, (out, columns), stored, "awq gemm", translate)


def unpack_words(words: np.ndarray) -> np.ndarray:
    """Return int8 [rows, 8 * words] of field - 8, outputs in their own order."""
    fields = words.view(np.uint32)[:, :, None] >> (4 * np.arange(8, dtype=np.uint32)) & 15
    codes = np.empty(fields.shape, np.int8)
    codes[:, :, ORDER] = fields.astype(np.int8) - 8
    return codes.reshape(words.shape[0], -1)
