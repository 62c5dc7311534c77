"""One tensor of a model: what it is for and how its axes are named."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "conv", "embedding", "norm", "bias", "state", "other"]
Task = Literal["causal", "masked", "encoder"]

BUFFER = "buffer"
"""The role of tensors that the model computes by itself: masks, position indices, rotary frequencies."""

ROUTER = "router"
"""What the roles of the small maps that choose experts start with; engines keep them in the model's own type."""

# What a weight may be before anyone encoded it. Eight-bit floats come with scales kept elsewhere.
_PLAIN_FLOATS = ("F64", "F32", "F16", "BF16")

_WIDTH = re.compile(r"[A-Z]+(\d+)")


def element_bits(dtype: str) -> int:
    """Return the bits of one element; every safetensors type but BOOL spells them in its name.

    Example:
        >>> element_bits("BF16"), element_bits("F8_E4M3"), element_bits("BOOL")
        (16, 8, 8)
    """
    if dtype == "BOOL":
        return 8
    width = _WIDTH.match(dtype)
    if width is None:
        raise ValueError(f"{dtype!r} is no element type of safetensors")
    return int(width.group(1))


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One stored tensor.

    Attributes:
        name: its name in the checkpoint.
        shape: as stored.
        dtype: element type as safetensors spells it, such as "BF16".
        role: what it does, such as "attn.q", "mlp.down", "norm.final", "attn.q.bias"; "buffer" for what the
            model computes by itself; None if no table says.
        axes: for every dimension its named axes, outermost first and joined by "*" where one dimension holds
            several: ("head*head_dim", "hidden"). None if no table says.
        layer: number of its block, None outside of the blocks.
        module: the name without ".weight" or ".bias".
        kind: which methods it is for; "state" is loaded, but no gradient trains it.
        transposed: stored as [in, out], as GPT-2's Conv1D does.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str | None
    axes: tuple[str, ...] | None
    layer: int | None
    module: str
    kind: Kind
    transposed: bool = False

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(out, in) of a linear map, (rows, columns) of an embedding table, whichever way it is stored."""
        if len(self.shape) != 2:
            raise ValueError(f"{self.name} has shape {list(self.shape)}, which is not a matrix")
        rows, columns = self.shape
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored elements."""
        return (self.elements * element_bits(self.dtype) + 7) // 8

    @property
    def is_plain_float(self) -> bool:
        """Whether its elements are the weights themselves, in a float type of 16 bits or more."""
        return self.dtype in _PLAIN_FLOATS


@dataclass(frozen=True, slots=True)
class FusedGroup:
    """Linears that inference engines run as one and that must therefore share one codec.

    Attributes:
        name: such as "model.layers.0.self_attn.qkv".
        members: names of their weight tensors.
    """

    name: str
    members: tuple[str, ...]


def module_of(name: str) -> str:
    """Return the name of the module a tensor belongs to."""
    for suffix in (".weight", ".bias"):
        if name.endswith(suffix):
            return name[: -len(suffix)]
    return name
