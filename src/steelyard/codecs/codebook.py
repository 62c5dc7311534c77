"""Vector quantization: some columns together are one codeword, or a sum of one from each of several codebooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.codecs import clustering
from steelyard.codecs.base import Codec, Parts, Shape, check_parts, float_limits, matrix, numpy_type
from steelyard.codecs.rows import require_finite
from steelyard.errors import UserError
from steelyard.parallel import map_threads

_SCALES = ("BF16", "F16", "F32")
_TABLES = (*_SCALES, "F8_E4M3")
_ROUNDS = 12


@dataclass(frozen=True)
class CodebookCodec(Codec):
    """w[i, :] = scale[i] * sum over m of table_m[code_m], for each `group` of consecutive columns.

    Codes take codebooks * bits / group bits a weight; the tables are paid once for each matrix.

    Attributes:
        codebooks: whose codewords are added, 1 to 8.
        bits: of a code, 1 to 16: a codebook has 2**bits codewords.
        group: columns of a codeword, 1 to 64. Where it does not divide the columns the last codeword of a row is
            cut off.
        scale_dtype: of the scales of the rows: "BF16", "F16" or "F32".
        table_dtype: of the codewords: "BF16", "F16", "F32" or "F8_E4M3".

    Parts of [out, in]: codes U8 [out, ceil(ceil(in/group) * codebooks * bits / 8)], all codes of a vector one after
    the other, from the lowest bit of a byte up; weight_scale [out, 1]; tables [codebooks * 2**bits, group].

    Source: Egiazarian et al. 2024, Extreme compression of large language models via additive quantization,
        section 3: groups of consecutive inputs, additive codebooks for a layer, a scale for each output.

    Example:
        >>> CodebookCodec(codebooks=2, bits=8, group=8).bits_per_weight((4096, 4096))
        2.0078125
    """

    codebooks: int = 1
    bits: int = 8
    group: int = 8
    scale_dtype: str = "BF16"
    table_dtype: str = "F16"

    name: ClassVar[str] = "codebook"

    def __post_init__(self) -> None:
        for field, value, largest in (
            ("codebooks", self.codebooks, 8),
            ("bits", self.bits, 16),
            ("group", self.group, 64),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
                raise UserError(f"{field} of a codebook codec is a whole number from 1 to {largest}, not {value}")
        if self.scale_dtype not in _SCALES:
            raise UserError(f"scale_dtype is one of {', '.join(_SCALES)}; not {self.scale_dtype}")
        if self.table_dtype not in _TABLES:
            raise UserError(f"table_dtype is one of {', '.join(_TABLES)}; not {self.table_dtype}")

    @property
    def label(self) -> str:
        """Such as "codebook 2x8 g8"; types that are not the usual ones are named."""
        scale = "" if self.scale_dtype == "BF16" else f" {self.scale_dtype.lower()}"
        table = "" if self.table_dtype == "F16" else f" of {self.table_dtype.lower()}"
        return f"codebook {self.codebooks}x{self.bits} g{self.group}{table}{scale}"

    @property
    def entries(self) -> int:
        """Codewords of a codebook."""
        return 1 << self.bits

    def groups(self, columns: int) -> int:
        """Return the number of vectors in a row."""
        return -(-columns // self.group)

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the packed codes, the scales and the codewords."""
        out, columns = matrix(self, shape)
        return {
            "codes": ("U8", (out, -(-self.groups(columns) * self.codebooks * self.bits // 8))),
            "weight_scale": (self.scale_dtype, (out, 1)),
            "tables": (self.table_dtype, (self.codebooks * self.entries, self.group)),
        }

    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Scale every row by its root mean square and take codebooks by k-means, each of what is left so far."""
        matrix(self, weight.shape)
        require_finite(name, weight)
        scale = self.row_scale(weight)
        vectors = clustering.Vectors.of(weight, scale, self.group, None)
        tables = self.round_tables(clustering.residual_codebooks(vectors, self.codebooks, self.entries, _ROUNDS))
        return self.from_codes(clustering.greedy_codes(vectors, tables), tables, scale, weight.shape)

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return scale * (sum of codewords) in float32, on all processors."""
        from steelyard.codecs import _codebook_kernels

        check_parts(self, parts, shape)
        out, columns = matrix(self, shape)
        weight = np.empty((out, columns), np.float32)
        packed, scale = np.ascontiguousarray(parts["codes"]), _flat_float(parts["weight_scale"])
        tables = self._tables(parts)

        def run(rows: slice) -> None:
            _codebook_kernels.decode(packed[rows], self.bits, tables, scale[rows], weight[rows])

        map_threads(run, clustering.pieces(out))
        return weight

    def row_scale(self, weight: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
        """Return the root mean square of every row as a scale is stored, float32 [out].

        Args:
            weight: [out, in].
            importance: [in], weights of the mean; None for equal ones.
        """
        wide = weight.astype(np.float64)
        if importance is not None and importance.sum() > 0:
            power = (wide * wide) @ (importance / importance.sum())
        else:
            power = np.mean(wide * wide, axis=1)
        return self.round_scale(np.sqrt(power))

    def round_scale(self, scale: np.ndarray) -> np.ndarray:
        """Return scales as they will be read back: float32, representable, finite; 0 becomes the least above it."""
        kind = numpy_type(self.scale_dtype)
        least, most = (float(limit) for limit in float_limits(self.scale_dtype))
        magnitude = np.clip(np.abs(scale), least, most)
        signed: np.ndarray = np.where(np.asarray(scale) < 0, -magnitude, magnitude)
        rounded: np.ndarray = signed.astype(np.float32).astype(kind).astype(np.float32)
        return rounded

    def round_tables(self, tables: np.ndarray) -> np.ndarray:
        """Return codewords as they will be read back: float32, representable and finite."""
        kind = numpy_type(self.table_dtype)
        _, most = float_limits(self.table_dtype)
        rounded: np.ndarray = np.clip(tables.astype(np.float32), -most, most).astype(kind).astype(np.float32)
        return rounded

    def from_codes(self, codes: np.ndarray, tables: np.ndarray, scale: np.ndarray, shape: Shape) -> Parts:
        """Pack codes chosen elsewhere.

        Args:
            codes: integers [out, groups, codebooks] below 2**bits.
            tables: [codebooks, 2**bits, group], representable in `table_dtype` (see `round_tables`).
            scale: [out], representable in `scale_dtype` (see `round_scale`).
            shape: of the matrix.
        """
        from steelyard.codecs import _codebook_kernels

        out, columns = matrix(self, shape)
        expected = (out, self.groups(columns), self.codebooks)
        sizes = (self.codebooks, self.entries, self.group)
        if codes.shape != expected or tables.shape != sizes or scale.shape != (out,):
            raise ValueError(
                f"{self.label} of {list(shape)} takes codes {list(expected)}, tables {list(sizes)} and scales "
                f"[{out}]; got {list(codes.shape)}, {list(tables.shape)} and {list(scale.shape)}"
            )
        if codes.size and (codes.min() < 0 or codes.max() >= self.entries):
            raise ValueError(f"codes of {self.label} lie in [0, {self.entries - 1}]")
        layout = self.parts(shape)
        packed = np.zeros(layout["codes"][1], np.uint8)
        _codebook_kernels.pack(np.ascontiguousarray(codes.reshape(out, -1), np.uint16), self.bits, packed)
        return {
            "codes": packed,
            "weight_scale": scale.reshape(out, 1).astype(numpy_type(self.scale_dtype)),
            "tables": tables.reshape(layout["tables"][1]).astype(numpy_type(self.table_dtype)),
        }

    def to_codes(self, parts: Mapping[str, np.ndarray], shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Undo `from_codes`: uint16 codes, float32 tables [codebooks, 2**bits, group], float32 scale [out]."""
        from steelyard.codecs import _codebook_kernels

        check_parts(self, parts, shape)
        out, columns = matrix(self, shape)
        codes = np.empty((out, self.groups(columns) * self.codebooks), np.uint16)
        _codebook_kernels.unpack(np.ascontiguousarray(parts["codes"]), self.bits, codes)
        shaped = codes.reshape(out, self.groups(columns), self.codebooks)
        return shaped, self._tables(parts), _flat_float(parts["weight_scale"])

    def _tables(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        tables: np.ndarray = parts["tables"].astype(np.float32)
        return np.ascontiguousarray(tables).reshape(self.codebooks, self.entries, self.group)


def _flat_float(scale: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(scale.astype(np.float32).reshape(-1))
