"""The native loops of nested codes: optimal clusters of sorted numbers, their halves, and looking codes up."""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int64, uint8, void

from steelyard.compiled import given, inner, kernel


@inner
def _cost(weight: np.ndarray, first: np.ndarray, second: np.ndarray, low: int, high: int) -> float:
    """Return the weighted squared distance of the numbers [low, high) to their mean, from running sums."""
    total = weight[high] - weight[low]
    if total <= 0.0:
        return 0.0
    linear = first[high] - first[low]
    cost: float = max(0.0, second[high] - second[low] - linear * linear / total)
    return cost


@inner
def _mean(weight: np.ndarray, first: np.ndarray, values: np.ndarray, low: int, high: int, empty: float) -> float:
    """Return the weighted mean of [low, high); of numbers without weight the plain one; `empty` of none."""
    if high <= low:
        return empty
    total = weight[high] - weight[low]
    mean: float = values[low:high].mean()
    if total > 0.0:
        mean = min(max((first[high] - first[low]) / total, values[low]), values[high - 1])
    return mean


@inner
def _layer(
    weight: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    start: np.ndarray,
    stack: np.ndarray,
) -> None:
    """Write the least cost of the first m numbers in one cluster more, and where that cluster starts.

    The best start never falls with m, so each half of a range is searched between its neighbours' starts only.
    """
    count = after.size - 1
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = 0, count, 0, count
    depth = 1
    while depth > 0:
        depth -= 1
        low, high, least, most = stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3]
        middle = (low + high) >> 1
        best, place = np.inf, least
        for begin in range(least, min(middle, most) + 1):
            found = before[begin] + _cost(weight, first, second, begin, middle)
            if found < best:
                best, place = found, begin
        after[middle], start[middle] = best, place
        if low < middle:
            stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = low, middle - 1, least, place
            depth += 1
        if middle < high:
            stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = middle + 1, high, place, most
            depth += 1


@kernel(void(given(float64, 1), given(float64, 1), int64, int64, given(int64, 1), uint8[::1], float64[:, ::1]))
def cluster(
    values: np.ndarray,
    costs: np.ndarray,
    seed: int,
    bits: int,
    order: np.ndarray,
    codes: np.ndarray,
    tables: np.ndarray,
) -> None:
    """Cluster sorted numbers into 2**seed optimal groups, and cut every group in two until there are 2**bits.

    Args:
        values: float64 [n], rising.
        costs: float64 [n], of a squared error of each; none negative.
        seed: bits of the first, optimal clustering.
        bits: of the last.
        order: int64 [n], where each number stood.
        codes: uint8 [n], written: the last group of the number that stood there.
        tables: float64 [bits - seed + 1, 2**bits], written: means of the groups of every width.
    """
    n = values.size
    weight, first, second = np.zeros(n + 1), np.zeros(n + 1), np.zeros(n + 1)
    # Sums of squares about the middle keep the digits that matter when all numbers are far from 0.
    centre = values[n >> 1]
    offsets = values - centre
    for i in range(n):
        weight[i + 1] = weight[i] + costs[i]
        first[i + 1] = first[i] + costs[i] * offsets[i]
        second[i + 1] = second[i] + costs[i] * offsets[i] * offsets[i]
    groups = 1 << seed
    before, after = np.empty(n + 1), np.empty(n + 1)
    start = np.zeros((groups, n + 1), np.int64)
    stack = np.empty((128, 4), np.int64)
    for m in range(n + 1):
        before[m] = _cost(weight, first, second, 0, m)
    for group in range(1, groups):
        _layer(weight, first, second, before, after, start[group], stack)
        before, after = after, before
    ends = np.empty((1 << bits) + 1, np.int64)
    ends[groups] = n
    for group in range(groups - 1, 0, -1):
        ends[group] = start[group, ends[group + 1]]
    ends[0] = 0
    mean = offsets[0]
    for group in range(groups):
        mean = _mean(weight, first, offsets, ends[group], ends[group + 1], mean)
        tables[0, group] = mean + centre
    for step in range(1, bits - seed + 1):
        for group in range(groups - 1, -1, -1):
            low, high = ends[group], ends[group + 1]
            best, cut = np.inf, high
            for place in range(low, high + 1):
                found = _cost(weight, first, second, low, place) + _cost(weight, first, second, place, high)
                if found < best:
                    best, cut = found, place
            mean = tables[step - 1, group] - centre
            ends[2 * group + 2] = high
            ends[2 * group + 1] = cut
            tables[step, 2 * group] = _mean(weight, first, offsets, low, cut, mean) + centre
            tables[step, 2 * group + 1] = _mean(weight, first, offsets, cut, high, mean) + centre
        groups *= 2
    for group in range(groups):
        for i in range(ends[group], ends[group + 1]):
            codes[order[i]] = group


@kernel(void(given(uint8, 3), given(float32), given(float32), int64, int64, int64, float32[:, ::1]))
def look_up(
    planes: np.ndarray, table: np.ndarray, scale: np.ndarray, rows: int, begin: int, end: int, weight: np.ndarray
) -> None:
    """Write table[code] * scale for the rows [begin, end).

    Args:
        planes: uint8 [bits, out, ceil(in / 8)], from the highest bit of a code down.
        table: float32 [tables, 2**bits].
        scale: float32 [out, 1].
        rows: that share a table.
        begin: first row.
        end: row after the last.
        weight: float32 [out, in], written.
    """
    bits, columns = planes.shape[0], weight.shape[1]
    for r in range(begin, end):
        line, factor = table[r // rows], scale[r, 0]
        for byte in range(planes.shape[2]):
            # Eight codes lie across the bytes of the planes: turned, an 8 by 8 square of bits has one in each byte.
            square = np.uint64(0)
            for plane in range(bits):
                square = (square << np.uint64(8)) | np.uint64(planes[plane, r, byte])
            swap = (square ^ (square >> np.uint64(7))) & np.uint64(0x00AA00AA00AA00AA)
            square = square ^ swap ^ (swap << np.uint64(7))
            swap = (square ^ (square >> np.uint64(14))) & np.uint64(0x0000CCCC0000CCCC)
            square = square ^ swap ^ (swap << np.uint64(14))
            swap = (square ^ (square >> np.uint64(28))) & np.uint64(0x00000000F0F0F0F0)
            square = square ^ swap ^ (swap << np.uint64(28))
            for place in range(min(8, columns - 8 * byte)):
                code = (square >> np.uint64(56 - 8 * place)) & np.uint64(255)
                weight[r, 8 * byte + place] = line[code] * factor


@kernel(void(given(uint8), given(float32), float32[:, ::1]))
def add_signed(signs: np.ndarray, magnitude: np.ndarray, weight: np.ndarray) -> None:
    """Add magnitudes, with the signs of their bits, to a matrix.

    Args:
        signs: uint8 [rows, ceil(columns / 8)], 1 for plus, the first column in the highest bit.
        magnitude: float32 [rows, columns].
        weight: float32 [rows, columns], changed.
    """
    rows, columns = weight.shape
    for r in range(rows):
        for j in range(columns):
            bit = (signs[r, j >> 3] >> (7 - (j & 7))) & 1
            weight[r, j] += magnitude[r, j] if bit else -magnitude[r, j]
