"""Nested codes: tables for every width, each code of few bits the beginning of one of many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.codecs import AnyPrecisionCodec, NestedCodec
from steelyard.codecs.any_precision import row_costs
from steelyard.codecs.base import numpy_type
from steelyard.edits.quantize.statistics import Factor, Statistics
from steelyard.edits.registry import method
from steelyard.errors import UserError


class AnyPrecisionOptions(BaseModel):
    """Options of nested codes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compensate: bool = Field(default=True, description="later columns make up for earlier errors, at every width")
    refit: int = Field(
        default=5, ge=0, le=8, description="widths up to which tables are fitted to the inputs' second moment"
    )
    rounds: int = Field(default=1, ge=1, description="times that codes and tables are fitted in turn at each width")
    damping: float = Field(
        default=1.0,
        gt=0.0,
        description="share of the mean input power added to every input: less favours the least width over others",
    )
    block: int = Field(default=128, ge=1, description="columns between two matrix products")


@dataclass(frozen=True)
class Nested:
    """A matrix in a nested codec.

    Attributes:
        codec: how it is stored.
        encoded: its parts.
        shape: of the matrix.
    """

    codec: NestedCodec
    encoded: Mapping[str, np.ndarray]
    shape: tuple[int, int]

    def parts(self) -> dict[str, np.ndarray]:
        """Return the stored parts."""
        return dict(self.encoded)

    def decode(self) -> np.ndarray:
        """Return the matrix as readers will see it at its highest level, float32 [out, in]."""
        return self.codec.decode(self.encoded, self.shape)


@method(
    name="any-precision",
    summary="nested codes of every width in one file: optimal clusters, cut in two for each further bit",
    paper="Park et al. 2024, arXiv 2402.10517",
    options=AnyPrecisionOptions,
)
def any_precision(
    weight: np.ndarray,
    codec: AnyPrecisionCodec,
    statistics: Statistics | None = None,
    options: AnyPrecisionOptions | None = None,
) -> Nested:
    """Cluster a matrix into nested codes, the mean squares of the inputs weighing its errors.

    The paper weighs by the diagonal Fisher information of each weight. Within a row the gradient of the output is
    common to all, so that what is left of it is the mean square of each input.

    With the full second moment H, which the paper does not use, codes are then chosen anew at every width, within
    the parent's two, each column's error made up for by later ones as GPTQ does; and the tables of few bits
    minimise (w - C t)^T H (w - C t), C naming each weight's entry. What compensation adds to a weight at few bits
    is out of reach for its later bits, each of which can only choose between two values: so it is damped a
    hundred times more than in GPTQ. That halves the loss at 3 and 4 bits and leaves it as it is at 6.

    Args:
        weight: [out, in], any float dtype.
        codec: the widths and who shares tables.
        statistics: of the inputs.
        options: see `AnyPrecisionOptions`.

    Raises:
        UserError: if the codec is another, or the statistics do not fit the matrix.
    """
    if not isinstance(codec, AnyPrecisionCodec):
        raise UserError(f"any-precision makes nested codes, not {codec.label}")
    options, statistics = options or AnyPrecisionOptions(), statistics or Statistics()
    columns = weight.shape[1]
    shape = (int(weight.shape[0]), int(columns))
    parts = codec.cluster(weight, statistics.importance(columns), row_weight=statistics.row_weight)
    factor = statistics.factor(columns, options.damping, True) if options.compensate else None
    hessian = statistics.hessian(columns)
    if factor is not None and hessian is not None:
        lines = np.ones(len(weight)) if statistics.row_weight is None else row_costs(statistics.row_weight)
        _Compensation(weight, codec, parts, factor, hessian, lines, options).run()
    return Nested(codec, parts, shape)


class _Compensation:
    """Codes anew, width by width, each column's error made up for by later ones; the parts are changed.

    Args:
        weight: [out, in].
        codec: of the parts.
        parts: from clustering.
        factor: of the second moment of the inputs, damped as the codes want it.
        hessian: the second moment as it is, float64 [in, in].
        lines: what an error in each row costs, float64 [out]; it counts where rows share tables.
        options: of the method.
    """

    def __init__(
        self,
        weight: np.ndarray,
        codec: AnyPrecisionCodec,
        parts: dict[str, np.ndarray],
        factor: Factor,
        hessian: np.ndarray,
        lines: np.ndarray,
        options: AnyPrecisionOptions,
    ) -> None:
        self._codec, self._parts, self._factor, self._options = codec, parts, factor, options
        self._out = len(weight)
        self._height = codec.rows or self._out
        self._weight = np.ascontiguousarray(weight, np.float64)
        self._scale = np.ones(self._out) if codec.rows == 1 else parts["row_scale"].astype(np.float64)[:, 0]
        self._lines = lines
        self._hessian = np.ascontiguousarray(hessian)
        self._pull = self._weight @ self._hessian

    def run(self) -> None:
        """Go from the least width to the whole."""
        codec, options = self._codec, self._options
        table = self._parts[f"table{codec.seed_bits}"].astype(np.float64)
        codes = np.zeros(self._weight.shape, np.uint8)
        reached = np.full(len(table), np.inf)
        for width in range(codec.seed_bits, codec.bits + 1):
            seed = width == codec.seed_bits
            parents, before = codes, table
            if not seed:
                table = self._halves(parents, table)
            rounds = options.rounds if width <= options.refit else 1
            for _ in range(rounds):
                codes = self._round(parents, self._stored(table), seed)
                if width <= options.refit:
                    table = self._refit(codes, table)
            # A bit that would do harm, as where a table has nearly as many entries as a row has weights, is idle.
            losses = self._losses(codes, self._stored(table))
            if not seed:
                table = np.where((losses > reached)[:, None], np.repeat(before, 2, axis=1), table)
            reached = np.minimum(losses, reached)
            self._parts[f"table{width}"] = table.astype(numpy_type(codec.dtype))
        for width in range(1, codec.bits + 1):
            self._parts[f"plane{width}"] = np.packbits(codes >> (codec.bits - width) & 1, axis=1)

    def _stored(self, table: np.ndarray) -> np.ndarray:
        return table.astype(numpy_type(self._codec.dtype)).astype(np.float64)

    def _groups(self) -> Iterator[tuple[int, slice]]:
        for number in range(self._codec.tables(self._out)):
            yield number, slice(number * self._height, min((number + 1) * self._height, self._out))

    def _halves(self, parents: np.ndarray, table: np.ndarray) -> np.ndarray:
        from steelyard.edits.quantize import _nested_kernels

        children = np.empty((len(table), 2 * table.shape[1]))
        for number, rows in self._groups():
            values = (self._weight[rows] / self._scale[rows, None]).ravel()
            costs = (self._factor.importance * (self._lines[rows] * self._scale[rows] ** 2)[:, None]).ravel()
            order = np.argsort(values, kind="stable")
            _nested_kernels.halves(
                values[order], costs[order], parents[rows].ravel()[order], table[number], children[number]
            )
        return children

    def _round(self, parents: np.ndarray, table: np.ndarray, free: bool) -> np.ndarray:
        from steelyard.edits.quantize import _nested_kernels

        order, lower = self._factor.order, self._factor.lower
        work = np.ascontiguousarray(self._weight[:, order])
        ordered = np.ascontiguousarray(parents[:, order])
        chosen = np.empty_like(ordered)
        table = np.ascontiguousarray(table)
        columns = len(order)
        for begin in range(0, columns, self._options.block):
            end = min(begin + self._options.block, columns)
            errors = np.empty((self._out, end - begin))
            _nested_kernels.compensate(
                work, lower, begin, end, table, self._scale, self._height, free, ordered, chosen, errors
            )
            work[:, end:] -= errors @ lower[end:, begin:end].T
        codes = np.empty_like(chosen)
        codes[:, order] = chosen
        return codes

    def _losses(self, codes: np.ndarray, table: np.ndarray) -> np.ndarray:
        """Return what the rows of each table lose under the second moment, float64 [tables]."""
        found = np.empty(len(table))
        for number, rows in self._groups():
            miss = table[number][codes[rows]] * self._scale[rows, None] - self._weight[rows]
            found[number] = np.vdot((miss * self._lines[rows, None]) @ self._hessian, miss)
        return found

    def _refit(self, codes: np.ndarray, table: np.ndarray) -> np.ndarray:
        from steelyard.edits.quantize import _nested_kernels

        fitted = np.empty_like(table)
        size = table.shape[1]
        for number, rows in self._groups():
            normal, right = np.zeros((size, size)), np.zeros(size)
            _nested_kernels.normal_equations(
                codes[rows], self._scale[rows], self._lines[rows], self._hessian, self._pull[rows], normal, right
            )
            fitted[number] = table[number] + _step(normal, right - normal @ table[number])
        return fitted


def _step(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the least change of a table that solves its normal equations; entries nobody uses stay."""
    ridge = 1e-6 * float(np.diagonal(normal).mean())
    if ridge <= 0:
        return np.zeros_like(right)
    solved: np.ndarray = np.linalg.solve(normal + ridge * np.eye(len(right)), right)
    return solved
