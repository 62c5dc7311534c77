"""k-bit data types under one scale for each block of the flattened tensor: NF4, FP4, dynamic exponents, …"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.codecs import tables
from steelyard.codecs.base import Codec, Parts, Shape, check_parts, matrix
from steelyard.codecs.rows import require_finite
from steelyard.errors import UserError

QUANTILE = "quantile"
"""The kind whose table is taken from the tensor and stored with it."""

# Elements from which quantiles are taken: evenly spread, as many as hold about this many.
_SEEN = 1 << 20

NESTED_BLOCK = 256
"""Scales that share a scale of their own where scales are quantized too."""


@dataclass(frozen=True)
class BlockwiseCodec(Codec):
    """w = table[code] * absmax with one absmax for each block of consecutive elements, rows one after the other.

    Attributes:
        kind: of the table: "nf" (normal float), "float", "dynamic" (dynamic exponent), "fp4" (bitsandbytes'),
            "int", or "quantile", a table of the tensor's own quantiles.
        bits: of a code, 2 to 8; "fp4" has 4.
        block: elements under one scale.
        double: whether the scales, less their mean, are 8-bit dynamic numbers in blocks of 256.

    Parts of [out, in], n = out * in: weight_packed U8 [ceil(n*bits/8), 1], codes from the highest bit of a byte
    down; absmax F32 [blocks, 1]; if double, absmax is U8, and nested_absmax F32 [ceil(blocks/256), 1] and
    nested_offset F32 [1, 1] follow; for quantiles, last, table F32 [1, 2**bits]. At 4 bits these are the arrays of
    bitsandbytes.

    Source: Dettmers and Zettlemoyer 2023; Dettmers et al. 2023, QLoRA, section 3.

    Example:
        >>> BlockwiseCodec("nf", 4, 64, double=True).bits_per_weight((1024, 1024))
        4.126983642578125
    """

    kind: str = "nf"
    bits: int = 4
    block: int = 64
    double: bool = False

    name: ClassVar[str] = "blockwise"

    def __post_init__(self) -> None:
        if self.kind not in (*tables.KINDS, QUANTILE):
            raise UserError(f"blockwise kind is one of {', '.join((*tables.KINDS, QUANTILE))}; not {self.kind}")
        if isinstance(self.bits, bool) or self.bits not in range(2, 9) or (self.kind == "fp4" and self.bits != 4):
            raise UserError(f"blockwise codes have 2 to 8 bits, fp4 has 4; not {self.bits} of {self.kind}")
        if isinstance(self.block, bool) or self.block not in range(16, 4097):
            raise UserError(f"block is 16 to 4096, not {self.block}")

    @property
    def label(self) -> str:
        """Such as "nf4 b64 dq", dq for scales that are quantized too."""
        kind = self.kind if self.kind == "fp4" else f"{self.kind}{self.bits}"
        return f"{kind} b{self.block}{' dq' if self.double else ''}"

    @property
    def table(self) -> np.ndarray:
        """The value of every code of a kind whose table is the same for all tensors, float32 [2**bits]."""
        return tables.table(self.kind, self.bits)

    def table_of(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the value of every code, float32 [2**bits]."""
        return parts["table"].reshape(-1) if self.kind == QUANTILE else self.table

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the codes and the scales, flat."""
        out, columns = matrix(self, shape)
        blocks = -(-out * columns // self.block)
        found: dict[str, tuple[str, tuple[int, ...]]] = {
            "weight_packed": ("U8", (-(-out * columns * self.bits // 8), 1)),
            "absmax": ("U8" if self.double else "F32", (blocks, 1)),
        }
        if self.double:
            found["nested_absmax"] = ("F32", (-(-blocks // NESTED_BLOCK), 1))
            found["nested_offset"] = ("F32", (1, 1))
        if self.kind == QUANTILE:
            found["table"] = ("F32", (1, 1 << self.bits))
        return found

    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Take the largest magnitude of each block as its scale, and the nearest entries under it as stored."""
        matrix(self, weight.shape)
        require_finite(name, weight)
        blocks = _blocks(np.ascontiguousarray(weight, np.float32).reshape(-1), self.block)
        scales: Parts = {"absmax": np.abs(blocks).max(axis=1, keepdims=True)}
        if self.double:
            scales = _quantize_scales(scales["absmax"])
        absmax = self.absmax_of(scales)
        last: Parts = {}
        if self.kind == QUANTILE:
            taken = blocks[:: max(1, blocks.size // _SEEN)]
            shares = taken / np.where(absmax != 0, absmax, 1)[:: max(1, blocks.size // _SEEN)]
            last["table"] = tables.quantiles(shares, self.bits).reshape(1, -1)
        codes = tables.encode(blocks, absmax, self.block, self.table_of(last))
        flat = codes.reshape(-1)[: weight.size]
        return {"weight_packed": pack_high_first(flat, self.bits).reshape(-1, 1), **scales, **last}

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return table[code] * absmax."""
        check_parts(self, parts, shape)
        out, columns = matrix(self, shape)
        codes = unpack_high_first(parts["weight_packed"].reshape(-1), self.bits, out * columns)
        decoded = tables.decode(_blocks(codes, self.block), self.absmax_of(parts), self.block, self.table_of(parts))
        return np.ascontiguousarray(decoded.reshape(-1)[: out * columns].reshape(out, columns))

    def absmax_of(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the scales, float32 [blocks, 1]."""
        if not self.double:
            return parts["absmax"]
        blocks = _blocks(parts["absmax"].reshape(-1), NESTED_BLOCK)
        wide = tables.decode(blocks, parts["nested_absmax"], NESTED_BLOCK, tables.table("dynamic", 8))
        result: np.ndarray = wide.reshape(-1, 1)[: len(parts["absmax"])] + parts["nested_offset"]
        return result


def pack_high_first(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return codes of `bits` bits one after the other from the highest bit of the first byte, uint8."""
    if bits == 8:
        return codes.copy()
    if bits == 4:
        padded = np.concatenate([codes, np.zeros(len(codes) % 2, np.uint8)])
        return np.ascontiguousarray(padded[0::2] << 4 | padded[1::2])
    fields = np.unpackbits(codes[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(fields.reshape(-1))


def unpack_high_first(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Undo `pack_high_first` for `count` codes."""
    if bits == 8:
        return packed[:count]
    if bits == 4:
        return np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1)[:count]
    fields = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    wide = np.zeros((count, 8), np.uint8)
    wide[:, 8 - bits :] = fields
    return np.packbits(wide, axis=1).reshape(-1)


def _blocks(flat: np.ndarray, block: int) -> np.ndarray:
    missing = -len(flat) % block
    padded = np.concatenate([flat, np.zeros(missing, flat.dtype)]) if missing else flat
    return padded.reshape(-1, block)


def _quantize_scales(absmax: np.ndarray) -> Parts:
    offset = np.full((1, 1), absmax.mean(dtype=np.float64), np.float32)
    # The mean of the padding's place is 0 once the offset is gone, so it does not widen the last block.
    blocks = _blocks((absmax - offset).reshape(-1), NESTED_BLOCK)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    codes = tables.encode(blocks, largest, NESTED_BLOCK, tables.table("dynamic", 8))
    stored = np.ascontiguousarray(codes.reshape(-1, 1)[: len(absmax)])
    return {"absmax": stored, "nested_absmax": largest, "nested_offset": offset}
