"""Bytes of the states that optimizers keep of each tensor they train."""

from __future__ import annotations

import math
from typing import Literal, get_args

from steelyard.spec import Kind

Optimizer = Literal["adamw", "adamw8bit", "adafactor", "lion", "muon", "sgd", "sgd-momentum"]
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)

# bitsandbytes: blocks of 256 share a 32-bit scale, and tensors of fewer elements than this stay in 32 bits.
_BLOCK = 256
_LEAST_8BIT = 4096


def state_bytes(
    optimizer: Optimizer, shape: tuple[int, ...], kind: Kind, *, in_block: bool = True, width: int = 4
) -> int:
    """Return the bytes of an optimizer's states for one tensor; master weights are not among them.

    AdamW keeps two numbers for each of the tensor's (arXiv 1711.05101); its 8-bit form two bytes with scales
    (2110.02861); Adafactor without momentum a row and a column of a matrix, each number of anything else
    (1804.04235); Lion (2302.06675) and momentum one number; Muon one for matrices within blocks, and AdamW's two
    for the rest.

    Args:
        optimizer: its name.
        shape: of the tensor.
        kind: what the tensor is.
        in_block: whether it is within the blocks, whose matrices Muon is for.
        width: bytes of each state.
    """
    elements = math.prod(shape)
    if optimizer == "sgd":
        return 0
    if optimizer in ("lion", "sgd-momentum"):
        return width * elements
    if optimizer == "muon" and in_block and kind == "linear":
        return width * elements
    if optimizer == "adafactor":
        if len(shape) < 2:
            return width * elements
        outer = math.prod(shape[:-2])
        return width * outer * (shape[-2] + shape[-1])
    if optimizer == "adamw8bit" and elements >= _LEAST_8BIT:
        return 2 * (elements + 4 * -(-elements // _BLOCK))
    return 2 * width * elements
