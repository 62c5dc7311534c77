"""GPTQ, both versions, and auto-round's folders in that layout.

qweight I32 [in * bits / 32, out] and qzeros I32 [groups, out * bits / 32], fields from the lowest bit up; scales
[groups, out]; g_idx I32 [in], the group of each column. w[o, i] = (q - z) * s. Version 1 stores z - 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import IntegerCodec, Parts, unpack
from steelyard.errors import UserError
from steelyard.formats.entry import Entry
from steelyard.formats.reading import awq
from steelyard.formats.reading.common import group_size, integer_parts, modules_with, order_of, permuted, present
from steelyard.weights import Checkpoint

_PARTS = ("qweight", "qzeros", "scales", "g_idx")


def read(checkpoint: Checkpoint, quantization: Mapping[str, Any], where: str) -> dict[str, Entry]:
    """Return the encoded tensors of a folder.

    Raises:
        UserError: if parts are missing or contradict each other.
    """
    packing = str(quantization.get("packing_format", ""))
    if "awq" in packing:
        return awq.read(checkpoint, quantization, where)
    version = _version(quantization, where)
    return {
        f"{module}.weight": _entry(checkpoint, module, quantization, version, where)
        for module in modules_with(checkpoint, "qweight")
    }


def _version(quantization: Mapping[str, Any], where: str) -> int:
    named = quantization.get("checkpoint_format", "gptq")
    if named not in ("gptq", "gptq_v2"):
        raise UserError(f"{where}: checkpoint_format {named!r}; gptq and gptq_v2 can be read")
    return 2 if named == "gptq_v2" else 1


def _entry(checkpoint: Checkpoint, module: str, quantization: Mapping[str, Any], version: int, where: str) -> Entry:
    stored = present(checkpoint, module, _PARTS)
    if missing := [part for part in ("qweight", "qzeros", "scales") if part not in stored]:
        raise UserError(f"{checkpoint.location}: {module} has no {missing[0]}; download the weights again")
    words, out = checkpoint.info(stored["qweight"]).shape
    groups, outputs = checkpoint.info(stored["scales"]).shape
    zero_words = checkpoint.info(stored["qzeros"]).shape[-1]
    columns = checkpoint.info(stored["g_idx"]).shape[0] if "g_idx" in stored else 0
    bits = 32 * words // columns if columns else 32 * zero_words // max(out, 1)
    columns = columns or 32 * words // max(bits, 1)
    if out != outputs or bits not in range(2, 9) or -(-columns * bits // 32) != words:
        raise UserError(
            f"{checkpoint.location}: parts of {module} fit no codes of 2 to 8 bits; download them again"
        )
    size = group_size(columns, groups, quantization.get("group_size"), f"{checkpoint.location}: {module}")
    base = IntegerCodec(bits, size, bool(quantization.get("sym")), checkpoint.info(stored["scales"]).dtype)
    order = None
    if "g_idx" in stored and quantization.get("desc_act", True):
        order = order_of(checkpoint.tensor(stored["g_idx"]), size, f"{checkpoint.location}: {module}")

    def translate(entry: Entry, arrays: Mapping[str, np.ndarray]) -> Parts:
        return _parts(base, order, arrays, columns, version, f"{checkpoint.location}: {module}")

    return Entry(permuted(base, order), (out, columns), stored, f"gptq v{version}", translate)


def _parts(
    base: IntegerCodec,
    order: np.ndarray | None,
    arrays: Mapping[str, np.ndarray],
    columns: int,
    version: int,
    where: str,
) -> Parts:
    codes = unpack(np.ascontiguousarray(arrays["qweight"].T), base.bits, columns)
    zero = unpack(arrays["qzeros"], base.bits, codes.shape[0]).T.astype(np.int16)
    if version == 1:
        # Stored as z - 1, so that 0 lies one below and comes round again from above.
        half = 1 << (base.bits - 1)
        zero = (zero + half + 1) % (2 * half) - half
    if order is None and "g_idx" in arrays:
        order_again = order_of(arrays["g_idx"], base.group_size, where)
        if order_again is not None:
            raise UserError(f"{where}: the config says desc_act false, but g_idx has an order; correct the config")
    scale = np.ascontiguousarray(arrays["scales"].T)
    codes = codes if order is None else np.ascontiguousarray(codes[:, order])
    parts = integer_parts(base, codes, zero.astype(np.int8), scale, where)
    return parts if order is None else {**parts, "column_order": order.reshape(1, -1)}
