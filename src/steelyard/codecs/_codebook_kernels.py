"""The native loops of vector codebooks, compiled by numba; imported only when something is encoded or decoded.

Codewords lie transposed, [group, entries], so that the innermost loop runs over entries and fills the vector
registers without reordering a sum: results are the same on every processor and for any number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int64, uint8, uint16, void

from steelyard.compiled import given, inner, kernel


@inner
def lowest_place(bits: np.ndarray) -> int:
    """Return the first place of the least of some floats, none negative, given by their bits as int32.

    The bits have the order of the numbers, and minima of integers vectorise.
    """
    least = bits[0]
    for k in range(bits.size):
        least = min(least, bits[k])
    for k in range(bits.size):
        if bits[k] == least:
            return k
    return 0


@kernel(void(given(uint16), int64, uint8[:, ::1]))
def pack(codes: np.ndarray, bits: int, packed: np.ndarray) -> None:
    """Write codes [rows, fields] densely from the lowest bit of the first byte of a row up."""
    rows, fields = codes.shape
    for r in range(rows):
        held, filled, place = np.uint32(0), 0, 0
        for f in range(fields):
            held |= np.uint32(codes[r, f]) << np.uint32(filled)
            filled += bits
            while filled >= 8:
                packed[r, place] = np.uint8(held & np.uint32(255))
                held >>= np.uint32(8)
                filled -= 8
                place += 1
        if filled > 0:
            packed[r, place] = np.uint8(held)


@kernel(void(given(uint8), int64, uint16[:, ::1]))
def unpack(packed: np.ndarray, bits: int, codes: np.ndarray) -> None:
    """Undo `pack`."""
    rows, fields = codes.shape
    mask = np.uint32((1 << bits) - 1)
    for r in range(rows):
        held, filled, place = np.uint32(0), 0, 0
        for f in range(fields):
            while filled < bits:
                held |= np.uint32(packed[r, place]) << np.uint32(filled)
                place += 1
                filled += 8
            codes[r, f] = np.uint16(held & mask)
            held >>= np.uint32(bits)
            filled -= bits


@kernel(void(given(uint8), int64, given(float32, 3), given(float32, 1), float32[:, ::1]))
def decode(packed: np.ndarray, bits: int, tables: np.ndarray, scale: np.ndarray, weight: np.ndarray) -> None:
    """Write scale * (sum of the codewords) of packed rows; tables are [codebooks, entries, group]."""
    rows, columns = weight.shape
    codebooks, _, group = tables.shape
    mask = np.uint32((1 << bits) - 1)
    for r in range(rows):
        held, filled, place = np.uint32(0), 0, 0
        for first in range(0, columns, group):
            width = min(group, columns - first)
            for m in range(codebooks):
                while filled < bits:
                    held |= np.uint32(packed[r, place]) << np.uint32(filled)
                    place += 1
                    filled += 8
                word = tables[m, held & mask]
                held >>= np.uint32(bits)
                filled -= bits
                if m == 0:
                    for j in range(width):
                        weight[r, first + j] = word[j]
                else:
                    for j in range(width):
                        weight[r, first + j] += word[j]
            for j in range(width):
                weight[r, first + j] *= scale[r]


@kernel(void(given(float32, 3), given(float32), given(float32), uint16[:, ::1], float32[:, ::1]))
def nearest(
    vectors: np.ndarray, importance: np.ndarray, words: np.ndarray, chosen: np.ndarray, distance: np.ndarray
) -> None:
    """Write the nearest codeword of every vector, the first of equals, and its squared distance.

    Args:
        vectors: [rows, groups, group].
        importance: [groups, group], what the square of each coordinate's error counts.
        words: [group, entries].
        chosen: [rows, groups], written.
        distance: [rows, groups], written.
    """
    rows, groups, group = vectors.shape
    entries = words.shape[1]
    miss = np.empty(entries, np.float32)
    for r in range(rows):
        for g in range(groups):
            fours = group // 4 * 4
            for k in range(entries):
                miss[k] = np.float32(0.0)
            for j in range(0, fours, 4):  # four at a time: a load and a store of the sums for each four
                first, second, third, fourth = (
                    vectors[r, g, j],
                    vectors[r, g, j + 1],
                    vectors[r, g, j + 2],
                    vectors[r, g, j + 3],
                )
                a, b, c, d = importance[g, j], importance[g, j + 1], importance[g, j + 2], importance[g, j + 3]
                for k in range(entries):
                    w, x = first - words[j, k], second - words[j + 1, k]
                    y, z = third - words[j + 2, k], fourth - words[j + 3, k]
                    miss[k] += (a * w * w + b * x * x) + (c * y * y + d * z * z)
            for j in range(fours, group):
                value, counts = vectors[r, g, j], importance[g, j]
                for k in range(entries):
                    apart = value - words[j, k]
                    miss[k] += counts * apart * apart
            best = lowest_place(miss.view(np.int32))
            chosen[r, g] = best
            distance[r, g] = miss[best]


@kernel(void(given(float32, 3), given(float32), given(float64, 1), given(uint16), float64[:, ::1], float64[:, ::1]))
def gather(
    vectors: np.ndarray,
    importance: np.ndarray,
    row_weight: np.ndarray,
    chosen: np.ndarray,
    sums: np.ndarray,
    mass: np.ndarray,
) -> None:
    """Add up the weighted vectors of every codeword, and their weights, both [entries, group]."""
    rows, groups, group = vectors.shape
    for r in range(rows):
        for g in range(groups):
            k = chosen[r, g]
            for j in range(group):
                counts = row_weight[r] * np.float64(importance[g, j])
                sums[k, j] += counts * np.float64(vectors[r, g, j])
                mass[k, j] += counts


@kernel(int64(given(float32), given(float32), given(float64, 1), float32[:, ::1], float64[::1]))
def spread_out(
    points: np.ndarray, importance: np.ndarray, draws: np.ndarray, words: np.ndarray, apart: np.ndarray
) -> int:
    """Choose first codewords among points, each with a chance proportional to its distance to those before it.

    Source: Arthur and Vassilvitskii 2007, k-means++.

    Args:
        points: [points, group].
        importance: [points, group], what the square of each coordinate's error counts.
        draws: [entries], uniform in [0, 1).
        words: [entries, group], written.
        apart: [points], scratch.

    Returns:
        How many codewords differ; the rest repeat the last point.
    """
    count, group = points.shape
    total = 0.0
    for i in range(count):
        apart[i] = 0.0
        for j in range(group):
            apart[i] += np.float64(importance[i, j]) * np.float64(points[i, j]) ** 2
        total += apart[i]
    different = 0
    for k in range(draws.size):
        left = draws[k] * total
        pick = count - 1
        for i in range(count):
            left -= apart[i]
            if left < 0.0:
                pick = i
                break
        different += total > 0.0
        for j in range(group):
            words[k, j] = points[pick, j]
        total = 0.0
        for i in range(count):
            near = 0.0
            for j in range(group):
                near += np.float64(importance[i, j]) * np.float64(points[i, j] - points[pick, j]) ** 2
            apart[i] = near if k == 0 else min(apart[i], near)
            total += apart[i]
    return different
