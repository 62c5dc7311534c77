"""Tables of nested codes: one file holds every width from a few bits to eight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from steelyard.codecs.base import Parts, Shape, check_parts, matrix, numpy_type
from steelyard.codecs.by_rows import RowCodec, chunks
from steelyard.codecs.nested import NestedCodec
from steelyard.codecs.rows import cast, require_finite
from steelyard.errors import UserError
from steelyard.parallel import map_threads

_DTYPES = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class AnyPrecisionCodec(RowCodec, NestedCodec):
    """w = table_b[code >> (bits - b)], for any b from `seed_bits` to `bits`: a code of few bits begins one of many.

    Attributes:
        bits: of a whole code, 1 to 8.
        seed_bits: least width that can be read, at most `bits`; there is a table for each width from it on.
        rows: rows that share tables. 1 gives every row its own, which for short rows take more than their codes;
            with more, or None for all, each row has a scale beside them.
        dtype: of tables and scales: "F16", "BF16" or "F32".

    Parts of [out, in]: row_scale, dtype [out, 1], unless rows is 1; then for every b from 1 to bits, plane{b}
    U8 [out, ceil(in/8)], bit b of every code counted from the highest, the first column in the highest bit of a
    byte, followed, where b is at least seed_bits, by table{b}, dtype [ceil(out/rows), 2**b].

    Source: Park et al. 2024, Any-Precision LLM, arXiv 2402.10517: incremental upscaling. The seed is the optimum of
    one-dimensional clustering, found by dynamic programming, where the paper iterates.

    Example:
        >>> codec = AnyPrecisionCodec(8, 3, rows=1)
        >>> round(codec.bits_per_weight((4096, 4096)), 2), codec.at(4).nbytes((4096, 4096))
        (9.97, 8585216)
    """

    bits: int = 8
    seed_bits: int = 3
    rows: int | None = 1
    dtype: str = "F16"

    name: ClassVar[str] = "any_precision"

    def __post_init__(self) -> None:
        whole = not any(isinstance(value, bool) for value in (self.bits, self.seed_bits, self.rows))
        if not whole or self.bits not in range(1, 9) or self.seed_bits not in range(1, self.bits + 1):
            raise UserError(f"codes have 1 to 8 bits, the least no more; not {self.seed_bits} to {self.bits}")
        if self.rows is not None and (not isinstance(self.rows, int) or self.rows < 1):
            raise UserError(f"rows is how many share tables, or null for all; not {self.rows}")
        if self.dtype not in _DTYPES:
            raise UserError(f"dtype is one of {', '.join(_DTYPES)}; not {self.dtype}")

    @property
    def label(self) -> str:
        """Such as "nested 3-8 bit", with the rows under a table where that is not each."""
        widths = f"{self.seed_bits}-{self.bits}" if self.seed_bits < self.bits else f"{self.bits}"
        shared = {1: "", None: " tensor"}.get(self.rows, f" r{self.rows}")
        return f"nested {widths} bit{shared}" + ("" if self.dtype == "F16" else f" {self.dtype.lower()}")

    @property
    def level(self) -> int:
        """The width of a code."""
        return self.bits

    @property
    def lowest(self) -> int:
        """The least width."""
        return self.seed_bits

    def at(self, level: int) -> Self:
        """Return the codec of another width."""
        return replace(self, bits=level)

    @property
    def row_quantum(self) -> int | None:
        """The rows that share tables; None where all do."""
        return self.rows

    def part_row(self, part: str, row: int) -> int:
        """Return where in `part` the rows from `row` begin."""
        return row // (self.rows or 1) if part.startswith("table") else row

    def tables(self, out: int) -> int:
        """Return how many tables of each width `out` rows have."""
        return 1 if self.rows is None else -(-out // self.rows)

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return scales, then planes, each width's table after the plane that completes its codes."""
        out, columns = matrix(self, shape)
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        if self.rows != 1:
            found["row_scale"] = (self.dtype, (out, 1))
        for width in range(1, self.bits + 1):
            found[f"plane{width}"] = ("U8", (out, -(-columns // 8)))
            if width >= self.seed_bits:
                found[f"table{width}"] = (self.dtype, (self.tables(out), 1 << width))
        return found

    def encode_rows(self, rows: np.ndarray, name: str = "weight", first_row: int = 0) -> Parts:
        """Cluster every group of rows with all weights alike."""
        return self.cluster(rows, None, name, first_row)

    def cluster(
        self,
        weight: np.ndarray,
        importance: np.ndarray | None,
        name: str = "weight",
        first_row: int = 0,
        row_weight: np.ndarray | None = None,
    ) -> Parts:
        """Return the parts whose tables lose the least weighted squares, given those of the width before.

        The seed is optimal. Each further bit cuts every cluster in two where that helps most, which is optimal for
        that cut, and a table's entries are the weighted means of their clusters: so the loss never rises with the
        width, but a width above the seed is not what it could be on its own.

        Args:
            weight: float [out, in].
            importance: float [in], what a squared error costs at each column; None for one. The paper's diagonal
                Fisher information of each weight is, in a row, this up to a factor.
            name: what errors call the tensor.
            first_row: of `weight` in the whole tensor, for errors.
            row_weight: float [out], what an error in each row costs; it counts where rows share tables.

        Raises:
            UserError: if a value is not finite or beyond `dtype`.
        """
        out, columns = matrix(self, weight.shape)
        require_finite(name, weight, first_row)
        dtype = numpy_type(self.dtype)
        wide = weight.astype(np.float64)
        each = np.ones(columns) if importance is None else np.maximum(np.asarray(importance, np.float64), 0.0)
        each = each if each.any() else np.ones(columns)
        parts: Parts = {}
        scale = np.ones((out, 1))
        if self.rows != 1:
            power = np.sqrt((wide * wide) @ each / each.sum())[:, None].astype(np.float32)
            stored = cast(f"a scale of {name}", power, dtype)
            scale = np.where(stored > 0, stored.astype(np.float64), 1.0)
            parts["row_scale"] = stored
        lines_cost = scale**2 if row_weight is None else scale**2 * row_costs(row_weight)[:, None]
        height = out if self.rows is None else self.rows
        codes = np.empty((out, columns), np.uint8)
        tables = {
            width: np.empty((self.tables(out), 1 << width), np.float64)
            for width in range(self.seed_bits, self.bits + 1)
        }

        def run(number: int) -> None:
            lines = slice(number * height, min((number + 1) * height, out))
            values = wide[lines] / scale[lines]
            costs = np.broadcast_to(each, values.shape) * lines_cost[lines]
            found, made = _cluster(values.ravel(), costs.ravel(), self.seed_bits, self.bits)
            codes[lines] = found.reshape(values.shape)
            for width, table in zip(tables, made, strict=True):
                tables[width][number] = table

        map_threads(run, range(self.tables(out)), 1)
        for width in range(1, self.bits + 1):
            parts[f"plane{width}"] = np.packbits((codes >> (self.bits - width)) & 1, axis=1)
            if width in tables:
                parts[f"table{width}"] = cast(f"a table of {name}", tables[width].astype(np.float32), dtype)
        return parts

    def codes(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return the codes, uint8 [out, in]."""
        columns = matrix(self, shape)[1]
        found = np.zeros((shape[0], columns), np.uint8)
        for width in range(1, self.bits + 1):
            found |= np.unpackbits(parts[f"plane{width}"], axis=1, count=columns) << (self.bits - width)
        return found

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return table[code], times the row's scale, on all processors."""
        from steelyard.codecs import _nested

        check_parts(self, parts, shape)
        out, columns = matrix(self, shape)
        planes = np.stack([parts[f"plane{width}"] for width in range(1, self.bits + 1)])
        table = np.ascontiguousarray(parts[f"table{self.bits}"].astype(np.float32))
        scale = np.ones((out, 1), np.float32)
        if self.rows != 1:
            scale = np.ascontiguousarray(parts["row_scale"].astype(np.float32))
        weight = np.empty((out, columns), np.float32)

        def run(bounds: tuple[int, int]) -> None:
            _nested.look_up(planes, table, scale, self.rows or out, bounds[0], bounds[1], weight)

        map_threads(run, chunks(self, (out, columns)))
        return weight


def row_costs(row_weight: np.ndarray) -> np.ndarray:
    """Return what errors in each row cost, float64 [out], of mean 1 and none near 0: they are estimates."""
    wide = np.maximum(np.asarray(row_weight, np.float64), 0.0)
    mean = float(wide.mean())
    return np.maximum(wide / mean, 1e-3) if mean > 0 else np.ones(len(wide))


def _cluster(values: np.ndarray, costs: np.ndarray, seed: int, bits: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return codes of `bits` bits, uint8 [n], and a table for each width from `seed`, float64 [2**width]."""
    from steelyard.codecs import _nested

    order = np.argsort(values, kind="stable")
    codes = np.empty(len(values), np.uint8)
    tables = np.empty((bits - seed + 1, 1 << bits), np.float64)
    _nested.cluster(values[order], costs[order], seed, bits, order, codes, tables)
    return codes, [tables[row, : 1 << (seed + row)] for row in range(len(tables))]
