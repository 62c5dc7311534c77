"""The best product of two thin matrices for a difference of weights, read row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Rows = Callable[[int, int], np.ndarray]
"""Returns rows [start, stop) of a matrix, float32."""

EXACT_BELOW = 512
"""Matrices with a side up to this are decomposed exactly."""

_OVERSAMPLING = 16
_ITERATIONS = 3
_PIECE = 1 << 20


@dataclass(frozen=True)
class Factors:
    """A matrix as left @ right, singular values shared between the two.

    Attributes:
        left: [rows, rank] float32.
        right: [rank, columns] float32.
        singular: [rank] float32, the singular values found, largest first.
        energy: sum of squares of the matrix.
    """

    left: np.ndarray
    right: np.ndarray
    singular: np.ndarray
    energy: float

    def cut(self, rank: int) -> Factors:
        """Return the best product of a smaller rank."""
        return Factors(self.left[:, :rank], self.right[:rank], self.singular[:rank], self.energy)

    def rank_for(self, tolerance: float) -> int:
        """Return the least rank whose relative error is at most `tolerance`; all of it if none is."""
        left = self.energy - np.cumsum(self.singular.astype(np.float64) ** 2)
        enough = np.flatnonzero(left <= tolerance**2 * self.energy)
        return int(enough[0]) + 1 if enough.size else len(self.singular)


def factor(rows: Rows, shape: tuple[int, int], rank: int, draw: np.random.Generator) -> Factors:
    """Return a truncated singular value decomposition.

    A small matrix is decomposed exactly, which is optimal (Eckart and Young 1936). A large one is never held: its
    range is found by subspace iteration from random columns, with the matrix read in pieces of rows.

    Args:
        rows: reads the matrix.
        shape: (rows, columns).
        rank: columns of the left factor; at most the smaller side.
        draw: for the random columns.

    Source: Halko, Martinsson and Tropp 2011, arXiv 0909.4061, algorithms 4.4 and 5.1.
    """
    rank = min(rank, *shape)
    if min(shape) <= max(EXACT_BELOW, rank + _OVERSAMPLING):
        whole = rows(0, shape[0])
        u, singular, v = np.linalg.svd(whole, full_matrices=False)
        return _split(u, singular, v, rank, float(np.sum(whole.astype(np.float64) ** 2)))
    width = rank + _OVERSAMPLING
    right = draw.standard_normal((shape[1], width), dtype=np.float32)
    energy = 0.0
    for _ in range(_ITERATIONS):
        left = np.linalg.qr(_times(rows, shape, right))[0]
        right = np.linalg.qr(_transposed_times(rows, shape, left))[0]
    left = np.linalg.qr(_times(rows, shape, right))[0]
    small = _transposed_times(rows, shape, left).T
    for start, stop in _pieces(shape):
        energy += float(np.sum(rows(start, stop).astype(np.float64) ** 2))
    u, singular, v = np.linalg.svd(small, full_matrices=False)
    return _split(left @ u[:, :rank], singular, v, rank, energy)


def relative_error(rows: Rows, shape: tuple[int, int], left: np.ndarray, right: np.ndarray) -> float:
    """Return the Frobenius norm of what a product leaves of a matrix, relative to that of the matrix."""
    missed = energy = 0.0
    right = right.astype(np.float32)
    for start, stop in _pieces(shape):
        piece = rows(start, stop)
        rest = piece - left[start:stop].astype(np.float32) @ right
        energy += float(np.sum(piece.astype(np.float64) ** 2))
        missed += float(np.sum(rest.astype(np.float64) ** 2))
    return float(np.sqrt(missed / energy)) if energy else 0.0


def _split(u: np.ndarray, singular: np.ndarray, v: np.ndarray, rank: int, energy: float) -> Factors:
    roots = np.sqrt(singular[:rank])
    return Factors(u[:, :rank] * roots, roots[:, None] * v[:rank], singular[:rank], energy)


def _times(rows: Rows, shape: tuple[int, int], right: np.ndarray) -> np.ndarray:
    made = np.empty((shape[0], right.shape[1]), np.float32)
    for start, stop in _pieces(shape):
        made[start:stop] = rows(start, stop) @ right
    return made


def _transposed_times(rows: Rows, shape: tuple[int, int], left: np.ndarray) -> np.ndarray:
    made = np.zeros((shape[1], left.shape[1]), np.float32)
    for start, stop in _pieces(shape):
        made += rows(start, stop).T @ left[start:stop]
    return made


def _pieces(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    step = max(1, _PIECE // shape[1])
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])
