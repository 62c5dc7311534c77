"""Grouped integers of 1 to 8 bits, laid out as compressed-tensors' dense pack-quantized format lays them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.codecs import rows as native
from steelyard.codecs.base import Parts, Shape, check_parts, float_limits, matrix, numpy_type
from steelyard.codecs.by_rows import RowCodec, chunks
from steelyard.errors import UserError
from steelyard.parallel import map_threads


@dataclass(frozen=True)
class IntegerCodec(RowCodec):
    """w = (code - zero) * scale with one scale, and one zero point if asymmetric, for each group of a row.

    Attributes:
        bits: of a code, 1 to 8. With 1 bit the zero points are not codes but numbers of the scales' type: -1/2 if
            symmetric, which makes the levels -scale/2 and scale/2, else whatever puts both where they lose least.
        group_size: columns under one scale, 16 to 256; None for one scale a row. Where it does not divide the
            columns the last group is shorter.
        symmetric: whether all zero points are 0, or -1/2 with 1 bit.
        scale_dtype: "BF16", "F16" or "F32".

    Parts of [out, in]: weight_packed I32 [out, ceil(in*bits/32)], weight_scale [out, groups] and, if asymmetric,
    weight_zero_point I32 [ceil(out*bits/32), groups], packed along the rows; with 1 bit, in the scales' type and
    [out, groups].

    Source: compressed-tensors, `PackedQuantizationCompressor` and `calculate_qparams`.

    Example:
        >>> IntegerCodec(bits=4, group_size=64, symmetric=False).nbytes((128, 512))
        35328
    """

    bits: int
    group_size: int | None = None
    symmetric: bool = True
    scale_dtype: str = "BF16"

    name: ClassVar[str] = "integer"

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or self.bits not in range(1, 9):
            raise UserError(f"integer codes have 1 to 8 bits, not {self.bits}")
        if self.group_size is not None and self.group_size not in range(16, 257):
            raise UserError(f"group_size is 16 to 256, or null for one scale a row; not {self.group_size}")
        if self.scale_dtype not in native.SCALE_KINDS:
            raise UserError(f"scale_dtype is one of {', '.join(native.SCALE_KINDS)}; not {self.scale_dtype}")

    @property
    def label(self) -> str:
        """Such as "int4 g64 sym"; scales other than bfloat16 are named."""
        group = "row" if self.group_size is None else f"g{self.group_size}"
        scale = "" if self.scale_dtype == "BF16" else f" {self.scale_dtype.lower()}"
        return f"int{self.bits} {group} {'sym' if self.symmetric else 'asym'}{scale}"

    @property
    def levels(self) -> int:
        """How many values a code can take."""
        return 1 << self.bits

    @property
    def code_range(self) -> tuple[int, int]:
        """The least and the greatest code."""
        return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1

    @property
    def centre(self) -> float:
        """The zero point of symmetric codes."""
        return -0.5 if self.bits == 1 else 0.0

    @property
    def _packs_zeros(self) -> bool:
        return not self.symmetric and self.bits > 1

    @property
    def row_quantum(self) -> int:
        """32 where zero points of 32 rows share words, else 1."""
        return 32 if self._packs_zeros else 1

    def part_row(self, part: str, row: int) -> int:
        """Return where in `part` the rows from `row` begin."""
        return row * self.bits // 32 if part == "weight_zero_point" and self._packs_zeros else row

    def groups(self, columns: int) -> int:
        """Return the number of groups in a row."""
        return 1 if self.group_size is None else -(-columns // self.group_size)

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the packed codes, the scales and, if asymmetric, the packed zero points."""
        out, columns = matrix(self, shape)
        groups = self.groups(columns)
        found: dict[str, tuple[str, tuple[int, ...]]] = {
            "weight_packed": ("I32", (out, native.words(columns, self.bits))),
            "weight_scale": (self.scale_dtype, (out, groups)),
        }
        if self._packs_zeros:
            found["weight_zero_point"] = ("I32", (native.words(out, self.bits), groups))
        elif not self.symmetric:
            found["weight_zero_point"] = (self.scale_dtype, (out, groups))
        return found

    def encode_rows(self, rows: np.ndarray, name: str = "weight", first_row: int = 0) -> Parts:
        """Round to nearest under scales from the extremes of each group, in one pass and without float copies.

        With 1 bit the levels are plus and minus the mean magnitude, which loses the least squares; if asymmetric,
        the means of what lies above and below the group's mean.
        """
        from steelyard.codecs import _kernels

        out, columns = matrix(self, rows.shape)
        bits, kind, _ = native.float_bits(rows)
        groups = self.groups(columns)
        packed = np.empty((out, native.words(columns, self.bits)), np.int32)
        scale = np.empty((out, groups), np.float32)
        zero = np.empty((out, 0 if self.symmetric else groups), np.float32)
        bad = _kernels.encode(
            bits.view(np.uint8),
            kind,
            self.bits,
            self.group_size or columns,
            self.symmetric,
            native.SCALE_KINDS[self.scale_dtype],
            packed,
            scale,
            zero,
        )
        if bad >= 0:
            native.require_finite(name, rows[bad:], first_row + int(bad))
        return self._parts(packed, scale, zero)

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return (code - zero) * scale in float32, on all processors."""
        from steelyard.codecs import _kernels

        check_parts(self, parts, shape)
        out, columns = matrix(self, shape)
        weight = np.empty((out, columns), np.float32)
        packed = native.aligned(parts["weight_packed"])
        scale = parts["weight_scale"].astype(np.float32)
        zero = self._zeros(parts, out)

        def run(bounds: tuple[int, int]) -> None:
            rows = slice(*bounds)
            _kernels.decode(
                packed[rows], self.bits, self.group_size or columns, scale[rows], zero[rows], weight[rows]
            )

        map_threads(run, chunks(self, (out, columns)))
        return weight

    def residual(self, rows: np.ndarray, parts: Mapping[str, np.ndarray]) -> tuple[float, float]:
        """Return the sums of squares of (decoded - rows) and of rows, in one pass on the calling thread."""
        from steelyard.codecs import _kernels

        check_parts(self, parts, rows.shape)
        out, columns = matrix(self, rows.shape)
        bits, kind, _ = native.float_bits(rows)
        packed = native.aligned(parts["weight_packed"])
        scale = parts["weight_scale"].astype(np.float32)
        group = self.group_size or columns
        lost, kept = _kernels.residual(
            bits.view(np.uint8), kind, self.bits, group, packed, scale, self._zeros(parts, out)
        )
        if not (np.isfinite(lost + kept) and kept > 0):  # squares beyond float32, or all below it
            return super().residual(rows, parts)
        return float(lost), float(kept)

    def quantize_with(self, weight: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None) -> np.ndarray:
        """Round to the nearest code under given scales.

        Args:
            weight: float [out, in].
            scale: [out, groups], above 0; used as given, so round it with `round_scale` first.
            zero: codes of the value 0 [out, groups], with 1 bit any number; None where symmetric.

        Returns:
            int8 [out, in]: round(weight / scale + zero), half to even, clamped to `code_range`.
        """
        from steelyard.codecs import _kernels

        out, columns = matrix(self, weight.shape)
        codes = np.empty((out, columns), np.int8)
        weight = np.ascontiguousarray(weight, np.float32)
        scale = np.ascontiguousarray(scale, np.float32)
        given = np.empty((out, 0), np.float32) if zero is None else np.ascontiguousarray(zero, np.float32)
        self._check_grid(out, columns, scale, given)
        if zero is None:
            given = self._centres(out)

        def run(bounds: tuple[int, int]) -> None:
            rows = slice(*bounds)
            _kernels.quantize(
                weight[rows], self.bits, self.group_size or columns, scale[rows], given[rows], codes[rows]
            )

        map_threads(run, chunks(self, (out, columns)))
        return codes

    def round_scale(self, scale: np.ndarray) -> np.ndarray:
        """Return the scales as they will be read back: float32, representable, finite and above 0."""
        dtype = numpy_type(self.scale_dtype)
        smallest, largest = float_limits(self.scale_dtype)
        rounded = np.minimum(np.asarray(scale, np.float32), largest).astype(dtype).astype(np.float32)
        return np.where(rounded > 0, rounded, smallest).astype(np.float32)

    def from_codes(self, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None) -> Parts:
        """Pack codes chosen elsewhere.

        Args:
            codes: integers [out, in] in `code_range`.
            scale: [out, groups], representable in `scale_dtype` (see `round_scale`).
            zero: integers [out, groups] in `code_range`, with 1 bit numbers of `scale_dtype`; None exactly where
                symmetric.
        """
        out, columns = matrix(self, codes.shape)
        zero = np.empty((out, 0), np.int8) if zero is None else zero
        self._check_grid(out, columns, scale, zero)
        low, high = self.code_range
        for label, values in (("codes", codes), ("zero", zero if self.bits > 1 else zero[:0])):
            if values.size and (values.min() < low or values.max() > high):
                raise ValueError(f"{label} of {self.label} lie in [{low}, {high}]")
        return self._parts(native.pack(codes, self.bits), np.asarray(scale, np.float32), zero.astype(np.float32))

    def to_codes(
        self, parts: Mapping[str, np.ndarray], shape: Shape
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Undo `from_codes`: int8 codes [out, in], float32 scale [out, groups], zero [out, groups] or None.

        Zero points are int8, with 1 bit float32.
        """
        check_parts(self, parts, shape)
        out, columns = matrix(self, shape)
        codes = native.unpack(parts["weight_packed"], self.bits, columns)
        zero = None if self.symmetric else self._zeros(parts, out)
        if zero is not None and self.bits > 1:
            zero = zero.astype(np.int8)
        return codes, parts["weight_scale"].astype(np.float32), zero

    def _check_grid(self, out: int, columns: int, scale: np.ndarray, zero: np.ndarray) -> None:
        groups = self.groups(columns)
        if scale.shape != (out, groups) or zero.shape != (out, 0 if self.symmetric else groups):
            raise ValueError(
                f"{self.label} of {[out, columns]} takes scales {[out, groups]} and "
                f"{'no zero points' if self.symmetric else f'zero points {[out, groups]}'}; "
                f"got {list(scale.shape)} and {list(zero.shape)}"
            )

    def _parts(self, packed: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> Parts:
        parts = {"weight_packed": packed, "weight_scale": scale.astype(numpy_type(self.scale_dtype))}
        if self._packs_zeros:
            parts["weight_zero_point"] = np.ascontiguousarray(native.pack(zero.astype(np.int8).T, self.bits).T)
        elif not self.symmetric:
            parts["weight_zero_point"] = zero.astype(numpy_type(self.scale_dtype))
        return parts

    def _zeros(self, parts: Mapping[str, np.ndarray], out: int) -> np.ndarray:
        if self.symmetric:
            return self._centres(out)
        if self.bits == 1:
            return parts["weight_zero_point"].astype(np.float32)
        return np.ascontiguousarray(native.unpack(parts["weight_zero_point"].T, self.bits, out).T, np.float32)

    def _centres(self, out: int) -> np.ndarray:
        """Return the zero points of symmetric codes as the kernels take them: none where they are 0."""
        return np.empty((out, 0), np.float32)
