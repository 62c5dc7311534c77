"""bitsandbytes: 4-bit tables by blocks, and 8-bit integers by row.

4 bits: weight U8 [n / 2, 1], weight.absmax, weight.quant_map, with double quantization weight.nested_absmax and
weight.nested_quant_map, and weight.quant_state.bitsandbytes__nf4 (or fp4), the bytes of a JSON object. 8 bits:
weight I8 [out, in] and SCB F32 [out], w = q * SCB / 127.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.codecs import BlockwiseCodec, IntegerCodec, Parts, pack, tables
from steelyard.codecs.blockwise import NESTED_BLOCK
from steelyard.errors import UserError
from steelyard.formats.entry import Entry
from steelyard.formats.reading.common import is_transposed, matrix, present
from steelyard.weights import Checkpoint

STATE = "weight.quant_state.bitsandbytes__"
_FOUR_BITS = ("weight", "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map")
_KINDS = {"nf4": "nf", "fp4": "fp4"}


def read(checkpoint: Checkpoint, quantization: Mapping[str, Any], where: str) -> dict[str, Entry]:
    """Return the encoded tensors of a folder.

    Raises:
        UserError: if a description cannot be read or its table is not the one of its name.
    """
    found = {}
    for name in checkpoint.names:
        module, state, kind = name.partition(f".{STATE}")
        if state:
            found[f"{module}.weight"] = _four_bits(checkpoint, module, kind, name)
        elif name.endswith(".SCB"):
            module = name.removesuffix(".SCB")
            found[f"{module}.weight"] = _eight_bits(checkpoint, module)
    return found


def _four_bits(checkpoint: Checkpoint, module: str, kind: str, name: str) -> Entry:
    where = f"{checkpoint.location}: {module}"
    stored = {**present(checkpoint, module, _FOUR_BITS), "state": name}
    try:
        state = json.loads(bytes(checkpoint.tensor(name)).decode())
        shape = matrix(checkpoint, name, state["shape"])
        codec = BlockwiseCodec(_KINDS[kind], 4, state["blocksize"], double="weight.nested_absmax" in stored)
        offset = np.full((1, 1), state["nested_offset"] if codec.double else 0, np.float32)
        nested = state.get("nested_blocksize", NESTED_BLOCK)
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{name} in {checkpoint.location} describes no matrix; download the weights again"
        ) from None
    if nested != NESTED_BLOCK:
        raise UserError(f"{where} has {nested} scales to a nested one; {NESTED_BLOCK} can be read")

    def translate(entry: Entry, arrays: Mapping[str, np.ndarray]) -> Parts:
        _require_table(arrays, "weight.quant_map", codec.table, where)
        found = {"weight_packed": arrays["weight"].reshape(-1, 1), "absmax": arrays["weight.absmax"].reshape(-1, 1)}
        if not codec.double:
            return found
        _require_table(arrays, "weight.nested_quant_map", tables.table("dynamic", 8), where)
        return {**found, "nested_absmax": arrays["weight.nested_absmax"].reshape(-1, 1), "nested_offset": offset}

    transposed = is_transposed(checkpoint.config, f"{module}.weight")
    return Entry(codec, shape, stored, f"bitsandbytes {kind}", translate, transposed)


def _require_table(arrays: Mapping[str, np.ndarray], part: str, table: np.ndarray, where: str) -> None:
    # Machines differ in the last bit of the dynamic table.
    if part in arrays and not np.allclose(arrays[part].reshape(-1), table, rtol=1e-6, atol=1e-9):
        raise UserError(f"{where}.{part} is not the table of its name; these weights cannot be read")


def _eight_bits(checkpoint: Checkpoint, module: str) -> Entry:
    stored = present(checkpoint, module, ("weight", "SCB", "weight_format"))
    if "weight" not in stored or checkpoint.info(stored["weight"]).dtype != "I8":
        raise UserError(f"{checkpoint.location}: {module}.SCB has no 8-bit weight beside it; download it again")
    shape = matrix(checkpoint, stored["weight"], checkpoint.info(stored["weight"]).shape)
    transposed = is_transposed(checkpoint.config, f"{module}.weight")
    return Entry(
        IntegerCodec(8, None, True, "F32"), shape, stored, "bitsandbytes int8", _eight_bit_parts, transposed
    )


def _eight_bit_parts(entry: Entry, arrays: Mapping[str, np.ndarray]) -> Parts:
    scale = (arrays["SCB"].astype(np.float64) / 127).astype(np.float32)
    return {"weight_packed": pack(arrays["weight"], 8), "weight_scale": scale.reshape(-1, 1)}
