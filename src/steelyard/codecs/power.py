"""Integers raised to a power: codes lie closer where weights do, and products of codes stay integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.codecs import rows as native
from steelyard.codecs import tables
from steelyard.codecs.base import Codec, Parts, Shape, check_parts, float_limits, matrix, numpy_type
from steelyard.codecs.rows import require_finite
from steelyard.errors import UserError

LEAST, MOST = 0.25, 4.0
"""Exponents that are looked at; 1 is the uniform grid."""

_FINE, _COARSE = 1 / 64, 1 / 4
# Weights the search looks at: rows spread evenly over the matrix, as many as hold about this many.
_SEEN = 1 << 17


@dataclass(frozen=True)
class PowerCodec(Codec):
    """w = sign(code) * |code|**exponent * scale, one exponent for the tensor, one scale for each group of a row.

    With exponent 1 these are the symmetric codes of `IntegerCodec`. Above 1 they lie closer near 0, as weights do.

    Attributes:
        bits: of a code, 2 to 8.
        group_size: columns under one scale, 16 to 1024; None for one scale a row.
        exponent: 0.25 to 4; None to have each encoding search the one that loses the least squares.
        scale_dtype: "BF16", "F16" or "F32".

    Parts of [out, in]: weight_packed I32 [out, ceil(in*bits/32)], codes as in `IntegerCodec`; weight_scale
    [out, groups]; exponent F32 [1, 1].

    Source: Yvinec et al. 2023, PowerQuant, 2301.09858, whose a is 1 / exponent; NUPES, 2308.05600. There values are
        rounded after the root is taken; here each goes to the code whose value is nearest.

    Example:
        >>> PowerCodec(4, 64).nbytes((128, 512))
        34820
    """

    bits: int = 4
    group_size: int | None = 64
    exponent: float | None = None
    scale_dtype: str = "BF16"

    name: ClassVar[str] = "power"

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or self.bits not in range(2, 9):
            raise UserError(f"power codes have 2 to 8 bits, not {self.bits}")
        if self.group_size is not None and (
            isinstance(self.group_size, bool) or self.group_size not in range(16, 1025)
        ):
            raise UserError(f"group_size is 16 to 1024, or null for one scale a row; not {self.group_size}")
        if self.exponent is not None and not (
            isinstance(self.exponent, int | float) and LEAST <= self.exponent <= MOST
        ):
            raise UserError(f"exponent is {LEAST:g} to {MOST:g}, or null to search it; not {self.exponent}")
        if self.scale_dtype not in native.SCALE_KINDS:
            raise UserError(f"scale_dtype is one of {', '.join(native.SCALE_KINDS)}; not {self.scale_dtype}")

    @property
    def label(self) -> str:
        """Such as "power4 g64"; a given exponent and scales other than bfloat16 are named."""
        group = "row" if self.group_size is None else f"g{self.group_size}"
        power = "" if self.exponent is None else f" ^{self.exponent:g}"
        scale = "" if self.scale_dtype == "BF16" else f" {self.scale_dtype.lower()}"
        return f"power{self.bits} {group}{power}{scale}"

    def groups(self, columns: int) -> int:
        """Return the number of groups in a row."""
        return 1 if self.group_size is None else -(-columns // self.group_size)

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the packed codes, the scales and the exponent."""
        out, columns = matrix(self, shape)
        return {
            "weight_packed": ("I32", (out, native.words(columns, self.bits))),
            "weight_scale": (self.scale_dtype, (out, self.groups(columns))),
            "exponent": ("F32", (1, 1)),
        }

    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Take scales from the extremes of each group and the nearest codes, under the exponent or the best one."""
        out, columns = matrix(self, weight.shape)
        require_finite(name, weight)
        wide = np.ascontiguousarray(weight, np.float32)
        exponent = self.exponent
        if exponent is None:
            step = max(1, out * columns // _SEEN)
            exponent = self.search(np.ascontiguousarray(wide[::step]))
        scale = self._extremes(wide, exponent)
        codes = tables.encode(wide, scale, self.group_size or columns, levels(self.bits, exponent))
        return self.from_codes((codes.astype(np.int16) - (1 << (self.bits - 1))).astype(np.int8), scale, exponent)

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return sign(code) |code|**exponent * scale in float32."""
        check_parts(self, parts, shape)
        codes, scale, exponent = self.to_codes(parts, shape)
        unsigned = (codes.astype(np.int16) + (1 << (self.bits - 1))).astype(np.uint8)
        return tables.decode(unsigned, scale, self.group_size or codes.shape[1], levels(self.bits, exponent))

    def search(self, weight: np.ndarray) -> float:
        """Return the multiple of 1/64 under which `encode` loses the least squares, float32 [rows, in].

        The loss falls to one minimum and rises again (PowerQuant, section 3.3), so steps of 1/4 find its place.
        """

        def lost(exponent: float) -> float:
            scale, group = self._extremes(weight, exponent), self.group_size or weight.shape[1]
            values = levels(self.bits, exponent)
            miss = tables.decode(tables.encode(weight, scale, group, values), scale, group, values) - weight
            return float(np.einsum("ij,ij->", miss, miss, dtype=np.float64))

        best, width = 1.0, _COARSE
        seen: dict[float, float] = {}
        around = np.arange(LEAST, MOST + width / 2, width)
        while True:
            for exponent in around.tolist():
                if LEAST <= exponent <= MOST and exponent not in seen:
                    seen[exponent] = lost(exponent)
            best = min(seen, key=lambda exponent: (seen[exponent], abs(exponent - 1)))
            if width <= _FINE:
                return best
            width /= 2
            around = np.array([best - width, best + width])

    def from_codes(self, codes: np.ndarray, scale: np.ndarray, exponent: float) -> Parts:
        """Pack codes chosen elsewhere.

        Args:
            codes: int8 [out, in] in [-2**(bits-1), 2**(bits-1)).
            scale: [out, groups], representable in `scale_dtype`.
            exponent: of the levels; it is stored as float32.
        """
        return {
            "weight_packed": native.pack(codes, self.bits),
            "weight_scale": np.asarray(scale, np.float32).astype(numpy_type(self.scale_dtype)),
            "exponent": np.full((1, 1), exponent, np.float32),
        }

    def to_codes(self, parts: Mapping[str, np.ndarray], shape: Shape) -> tuple[np.ndarray, np.ndarray, float]:
        """Undo `from_codes`: int8 codes [out, in], float32 scales [out, groups], the exponent.

        Raises:
            UserError: if the stored exponent is none that this codec has.
        """
        exponent = float(parts["exponent"][0, 0])
        if not LEAST <= exponent <= MOST:
            raise UserError(f"{self.label} has exponents from {LEAST:g} to {MOST:g}; stored is {exponent:g}")
        codes = native.unpack(parts["weight_packed"], self.bits, matrix(self, shape)[1])
        return codes, parts["weight_scale"].astype(np.float32), exponent

    def _extremes(self, weight: np.ndarray, exponent: float) -> np.ndarray:
        """Return the scales that put the largest magnitude of each group half a step beyond the largest code."""
        size = self.group_size or weight.shape[1]
        largest = np.maximum.reduceat(np.abs(weight), np.arange(0, weight.shape[1], size), axis=1)
        kind = numpy_type(self.scale_dtype)
        least, most = float_limits(self.scale_dtype)
        scale = largest / np.float32((((1 << self.bits) - 1) / 2) ** exponent)
        stored = np.minimum(scale, most).astype(kind).astype(np.float32)
        result: np.ndarray = np.where(stored > 0, stored, least)
        return result


def levels(bits: int, exponent: float) -> np.ndarray:
    """Return what every code stands for under a scale of 1, from the least code up, float32 [2**bits]."""
    codes = np.arange(-(1 << (bits - 1)), 1 << (bits - 1), dtype=np.float64)
    return (np.sign(codes) * np.abs(codes) ** np.float64(np.float32(exponent))).astype(np.float32)


def product_table(largest: int, exponent: float, fraction: int = 16) -> np.ndarray:
    """Return round(n**exponent * 2**fraction) for every magnitude n a product of two codes can have.

    Args:
        largest: greatest product of two magnitudes, 64 for codes of 4 bits on both sides.
        exponent: of both sides.
        fraction: bits after the point.

    Returns:
        int64 [largest + 1].
    """
    return np.rint(np.arange(largest + 1, dtype=np.float64) ** exponent * 2.0**fraction).astype(np.int64)


def integer_product(first: np.ndarray, second: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Multiply two matrices of codes with integers alone.

    A power preserves products, |a|**p |b|**p = |a b|**p, so that codes are multiplied as they are and one look-up
    stands for the power; only the sum needs the value.

    Args:
        first: int8 [m, k].
        second: int8 [n, k], of the same exponent.
        table: from `product_table`.

    Returns:
        int64 [m, n]: sum over k of sign * |first * second|**exponent, with the table's bits after the point. Times
        both scales it is the product of what the codes stand for.

    Source: Yvinec et al. 2023, PowerQuant, 2301.09858, section 3.2; NUPES, 2308.05600.
    """
    result = np.zeros((first.shape[0], second.shape[0]), np.int64)
    for row, codes in enumerate(first.astype(np.int32)):
        product = codes * second.astype(np.int32)
        result[row] = (np.sign(product) * table[np.abs(product)]).sum(axis=1)
    return result
