"""Rows of a weight with a low-rank adapter applied, from rows of the weight without it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from steelyard.edits.merge.floats import widen
from steelyard.edits.merge.lora.adapter import LowRank

Reader = Callable[[int, int], np.ndarray]

_PIECE = 1 << 18


class Applied:
    """One weight matrix and the adapter of its module.

    LoRA: W + s·B·A (Hu et al. 2021, arXiv 2106.09685, equation 3). DoRA: m·(W + s·B·A)/‖W + s·B·A‖, the norm taken
    over the inputs of each output (Liu et al. 2024, arXiv 2402.09353, equation 5); of an embedding, over the
    vocabulary for each of its columns, as peft does.

    Args:
        read: entries [start, stop) of the stored weight, flattened.
        shape: of the stored weight.
        low_rank: the adapter.
        transposed: whether the weight is stored as the transpose of B·A.
    """

    def __init__(self, read: Reader, shape: tuple[int, ...], low_rank: LowRank, transposed: bool) -> None:
        self._read = read
        self._rows, self._columns = shape
        # Stored rows of s·B·A are products of rows of `left` with `right`.
        a, b = low_rank.a, low_rank.b
        self._left = np.ascontiguousarray(a.T if transposed else b)
        self._right = np.float32(low_rank.scale) * np.ascontiguousarray(b.T if transposed else a)
        self._magnitude = low_rank.magnitude
        self._column_factors: np.ndarray | None = None
        if self._magnitude is not None and transposed:
            self._column_factors = (self._magnitude / np.sqrt(self._column_squares())).astype(np.float32)

    @property
    def resident(self) -> int:
        """Bytes held beside the file's pages."""
        return int(self._left.nbytes + self._right.nbytes)

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Return entries [start, stop) of the flattened weight, float32."""
        if self._magnitude is None:
            return self._plain(start, stop)
        first, last = start // self._columns, -(-stop // self._columns)
        rows = self._summed(first, last)
        if self._column_factors is not None:
            rows *= self._column_factors
        else:
            norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
            rows *= (self._magnitude[first:last] / norms).astype(np.float32)[:, None]
        flat: np.ndarray = rows.reshape(-1)[start - first * self._columns : stop - first * self._columns]
        return flat

    def _plain(self, start: int, stop: int) -> np.ndarray:
        """Entries [start, stop) of W + s·B·A; what is not finite in W stays so."""
        from steelyard.edits.merge.lora._kernels import add_product

        summed = np.empty(stop - start, np.float32)
        widen(self._read(start, stop), summed)
        add_product(self._left, self._right, start, summed)
        return summed

    def _summed(self, first: int, last: int) -> np.ndarray:
        """Rows [first, last) of W + s·B·A, float32."""
        return self._plain(first * self._columns, last * self._columns).reshape(last - first, self._columns)

    def _column_squares(self) -> np.ndarray:
        squares = np.zeros(self._columns, np.float64)
        step = max(1, _PIECE // self._columns)
        for first in range(0, self._rows, step):
            rows = self._summed(first, min(first + step, self._rows))
            squares += np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
        return squares


def is_transposed(low_rank: LowRank, shape: tuple[int, ...], stored_transposed: bool) -> bool | None:
    """Tell whether a weight of this shape is stored as the transpose of B·A; None if it can be neither.

    Args:
        low_rank: the adapter.
        shape: of the stored weight.
        stored_transposed: which it is where both fit, as for square weights.
    """
    if low_rank.embedding:
        return True if low_rank.product_shape[::-1] == shape else None
    straight, flipped = low_rank.product_shape == shape, low_rank.product_shape[::-1] == shape
    if straight and flipped:
        return stored_transposed
    return flipped if straight or flipped else None
