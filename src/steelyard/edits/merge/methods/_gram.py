"""Methods whose result is a weighted sum of the models, with weights that depend on the angles between them.

The angles, lengths and means that such methods speak of are functions of the inner products of all pairs of
vectors. One pass gathers these; the formula then works on small matrices, whatever the size of the tensor.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from steelyard.edits.merge.base import Merge, Piece

Formula = Callable[[np.ndarray], np.ndarray]
"""From inner products, float64 [sets, vectors, vectors], to the vectors' coefficients, float64 [sets, vectors]."""

Vectors = Literal["tensor", "rows", "columns"]
"""What is one vector: the whole tensor, what lies along its last axis, or what lies along its first."""


def angular(
    formula: Formula,
    rows: Sequence[int],
    shape: Sequence[int],
    vectors: Vectors = "tensor",
    origin: int | None = None,
) -> Merge:
    """Return the merge that is a weighted sum of vectors.

    Args:
        formula: their coefficients.
        rows: the rows of a piece that hold the vectors.
        shape: of the tensor.
        vectors: what is one vector; of a tensor with one axis that is always the whole.
        origin: the row from which the vectors point, None where that is zero.
    """
    if len(shape) < 2 or vectors == "tensor":
        return _Whole(formula, rows, origin)
    if vectors == "rows":
        return _Rows(formula, rows, origin, shape[-1])
    return _Columns(formula, rows, origin, shape)


class _Angular(Merge):
    def __init__(self, formula: Formula, rows: Sequence[int], origin: int | None) -> None:
        self._formula, self._rows, self._origin = formula, list(rows), origin

    def _values(self, piece: Piece) -> np.ndarray:
        """Return all rows of a piece, pointing from the origin where there is one."""
        from steelyard.edits.merge.methods._sum_kernels import subtract

        values = np.ascontiguousarray(piece.values)
        if self._origin is not None:
            subtract(values, self._origin)
        return values

    def _spread(self, coefficients: np.ndarray, models: int) -> np.ndarray:
        """Return the coefficients of all rows, float64 [sets, models], from those of the vectors."""
        spread = np.zeros((len(coefficients), models))
        spread[:, self._rows] = coefficients
        if self._origin is not None:
            spread[:, self._origin] += 1.0
        return spread


class _Whole(_Angular):
    rounds = 1

    def observe(self, round: int, piece: Piece) -> Any:
        self._models = len(piece.values)
        return products(self._values(piece)[self._rows], piece.values.shape[1])

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        gram = np.zeros((1, len(self._rows), len(self._rows)))
        for part in observed:
            gram += part
        self._coefficients = self._formula(gram)

    def coefficients(self) -> np.ndarray:
        factors: np.ndarray = self._spread(self._coefficients, self._models)[0]
        if self._origin is not None:
            factors[self._origin] -= self._coefficients.sum()
        return factors

    def combine(self, piece: Piece) -> np.ndarray:
        values = self._values(piece)
        return weighted(values, self._spread(self._coefficients, len(values)))


class _Rows(_Angular):
    grain = "row"

    def __init__(self, formula: Formula, rows: Sequence[int], origin: int | None, width: int) -> None:
        super().__init__(formula, rows, origin)
        self._width = width

    def combine(self, piece: Piece) -> np.ndarray:
        values = self._values(piece)
        coefficients = self._formula(products(values[self._rows], self._width))
        return weighted(values, self._spread(coefficients, len(values)))


class _Columns(_Angular):
    rounds = 1

    def __init__(self, formula: Formula, rows: Sequence[int], origin: int | None, shape: Sequence[int]) -> None:
        super().__init__(formula, rows, origin)
        self.grain = "row" if len(shape) == 2 else "tensor"
        self._width = math.prod(shape[1:])
        self._sums = OrderedSum()

    def observe(self, round: int, piece: Piece) -> Any:
        from steelyard.edits.merge.methods._sum_kernels import column_products

        gram = np.zeros((len(self._rows), len(self._rows), self._width))
        column_products(self._values(piece)[self._rows], self._width, gram)
        self._sums.add(piece.start, piece.values.shape[1], gram)

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        gram = self._sums.total.transpose(2, 0, 1)
        gram = gram + np.tril(gram, -1).transpose(0, 2, 1)
        self._coefficients = self._formula(gram)

    def combine(self, piece: Piece) -> np.ndarray:
        from steelyard.edits.merge.methods._sum_kernels import combine_columns

        values = self._values(piece)
        merged = np.empty(values.shape[1], np.float32)
        spread = np.ascontiguousarray(self._spread(self._coefficients, len(values)).T)
        combine_columns(values, spread, merged)
        return merged


class OrderedSum:
    """A sum of arrays, one for each piece, taken in the order of the pieces whatever order they come in.

    Only what has come too early is held.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[int, np.ndarray]] = {}
        self._next = 0
        self._lock = threading.Lock()
        self.total = np.zeros(())

    def add(self, start: int, entries: int, part: np.ndarray) -> None:
        """Add the array of the piece that begins at an entry and has so many."""
        with self._lock:
            self._waiting[start] = (entries, part)
            while self._next in self._waiting:
                entries, part = self._waiting.pop(self._next)
                self.total = self.total + part
                self._next += entries


def products(vectors: np.ndarray, width: int) -> np.ndarray:
    """Return the inner products of all pairs of rows in runs of `width`, float64 [runs, vectors, vectors]."""
    from steelyard.edits.merge.methods import _sum_kernels

    gram = np.empty((vectors.shape[1] // width, len(vectors), len(vectors)))
    _sum_kernels.products(vectors, width, gram)
    return gram


def weighted(values: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Return the weighted sum of rows with coefficients for each run of entries.

    Args:
        values: float32 [models, entries].
        coefficients: float64 [runs, models], runs of equal length.

    Returns:
        float32 [entries].
    """
    from steelyard.edits.merge.methods._sum_kernels import combine

    merged = np.empty(values.shape[1], np.float32)
    combine(np.ascontiguousarray(values), coefficients, values.shape[1] // len(coefficients), merged)
    return merged
