"""Codebooks for the vectors of a matrix: weighted k-means, and k-means of what is left for further codebooks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.parallel import cpu_count, map_threads
from steelyard.seeds import generator

# First codewords are drawn among this many vectors for each codeword: the work grows with the square of these.
_SAMPLED = 16
_MOST_SAMPLED = 16384
# Rows are worked on in at most so many pieces, whose sums are added in order: the same for any number of threads.
_PIECES = 16


@dataclass(frozen=True)
class Vectors:
    """The vectors of a matrix and what their errors count.

    Attributes:
        values: float32 [rows, groups, group]; what is missing in the last group of a row is 0.
        importance: float32 [groups, group], of the square of an error; 0 where there is no column.
        row_weight: float64 [rows], times which the importance counts in a row.
    """

    values: np.ndarray
    importance: np.ndarray
    row_weight: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray, scale: np.ndarray, group: int, importance: np.ndarray | None) -> Vectors:
        """Return the vectors of weight / scale.

        Args:
            weight: [out, in].
            scale: [out], above 0.
            group: columns of a vector.
            importance: [in], what the square of an error of the weight counts; None for 1.
        """
        out, columns = weight.shape
        groups = -(-columns // group)
        values = np.zeros((out, groups * group), np.float32)
        values[:, :columns] = weight / scale[:, None]
        counts = np.zeros(groups * group)
        counts[:columns] = 1.0 if importance is None else importance
        if counts.mean() > 0:  # float32 sums of squares neither overflow nor vanish
            counts /= counts.mean()
        shaped = counts.astype(np.float32).reshape(groups, group)
        return cls(values.reshape(out, groups, group), shaped, scale.astype(np.float64) ** 2)

    def less(self, values: np.ndarray) -> Vectors:
        """Return what is left of the vectors when `values` are taken off."""
        return Vectors(self.values - values, self.importance, self.row_weight)


def pieces(rows: int) -> list[slice]:
    """Return at most a fixed number of ranges of rows."""
    step = -(-rows // _PIECES)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def nearest(vectors: Vectors, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest codeword of every vector and its squared distance, [rows, groups] each.

    Args:
        vectors: to encode.
        words: float32 [entries, group].
    """
    from steelyard.codecs import _codebook_kernels

    shape = vectors.values.shape[:2]
    chosen, distance = np.empty(shape, np.uint16), np.empty(shape, np.float32)
    across = np.ascontiguousarray(words.T)

    def run(rows: slice) -> None:
        _codebook_kernels.nearest(vectors.values[rows], vectors.importance, across, chosen[rows], distance[rows])

    map_threads(run, pieces(shape[0]), workers=cpu_count())
    return chosen, distance


def means(vectors: Vectors, chosen: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return the weighted mean of every codeword's vectors, float32 [entries, group]; its own value without any."""
    from steelyard.codecs import _codebook_kernels

    def run(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        sums, mass = np.zeros(words.shape), np.zeros(words.shape)
        _codebook_kernels.gather(
            vectors.values[rows], vectors.importance, vectors.row_weight[rows], chosen[rows], sums, mass
        )
        return sums, mass

    found = map_threads(run, pieces(len(chosen)))
    sums, mass = (np.sum([pair[i] for pair in found], axis=0) for i in (0, 1))
    return np.where(mass > 0, sums / np.where(mass > 0, mass, 1.0), words).astype(np.float32)


def k_means(vectors: Vectors, entries: int, rounds: int, seed: int, name: str) -> np.ndarray:
    """Return the codewords of weighted k-means, float32 [entries, group], the same for the same seed and name.

    Codewords that no vector takes move to the vectors that are worst off.

    Source: Lloyd 1982; Arthur and Vassilvitskii 2007 for the first codewords.
    """
    from steelyard.codecs import _codebook_kernels

    group = vectors.values.shape[2]
    draw = generator(seed, name)
    flat = vectors.values.reshape(-1, group)
    count = min(len(flat), max(entries, min(_SAMPLED * entries, _MOST_SAMPLED)))
    sampled = np.sort(draw.choice(len(flat), count, replace=False))
    groups = vectors.values.shape[1]
    row_weight = (vectors.row_weight / max(float(vectors.row_weight.max()), 1e-300)).astype(np.float32)
    importance = vectors.importance[sampled % groups] * row_weight[sampled // groups, None]
    words = np.empty((entries, group), np.float32)
    _codebook_kernels.spread_out(
        np.ascontiguousarray(flat[sampled]), importance, draw.random(entries), words, np.empty(count)
    )
    for _ in range(rounds):
        chosen, distance = nearest(vectors, words)
        moved = means(vectors, chosen, words)
        empty = np.flatnonzero(np.bincount(chosen.reshape(-1), minlength=entries) == 0)
        if len(empty):
            cost = distance.reshape(-1) * np.repeat(row_weight, groups)
            worst = np.argsort(-cost, kind="stable")[: len(empty)]
            worst = worst[cost[worst] > 0]
            moved[empty[: len(worst)]] = flat[worst]
        if np.array_equal(moved, words):
            break
        words = moved
    return words


def residual_codebooks(
    vectors: Vectors, codebooks: int, entries: int, rounds: int, seed: int = 0, name: str = "codebook"
) -> np.ndarray:
    """Return codebooks, each by k-means of what those before it leave: float32 [codebooks, entries, group]."""
    found = []
    left = vectors
    for index in range(codebooks):
        words = k_means(left, entries, rounds, seed, f"{name} {index}")
        found.append(words)
        if index + 1 < codebooks:
            left = left.less(words[nearest(left, words)[0]])
    return np.stack(found)


def greedy_codes(vectors: Vectors, tables: np.ndarray) -> np.ndarray:
    """Return the nearest codeword of each codebook in turn, uint16 [rows, groups, codebooks]."""
    codes = np.empty((*vectors.values.shape[:2], len(tables)), np.uint16)
    left = vectors
    for index, words in enumerate(tables):
        codes[..., index] = nearest(left, words)[0]
        if index + 1 < len(tables):
            left = left.less(words[codes[..., index]])
    return codes
