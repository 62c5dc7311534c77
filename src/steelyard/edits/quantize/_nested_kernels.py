"""The native loops of rounding to nested codes and of fitting their tables."""

from __future__ import annotations

import numpy as np
from numba import boolean, float64, int64, uint8, void

from steelyard.compiled import given, kernel


@kernel(
    void(
        given(uint8),
        given(float64, 1),
        given(float64, 1),
        given(float64),
        given(float64),
        float64[:, ::1],
        float64[::1],
    )
)
def normal_equations(
    codes: np.ndarray,
    scale: np.ndarray,
    lines: np.ndarray,
    hessian: np.ndarray,
    pull: np.ndarray,
    normal: np.ndarray,
    right: np.ndarray,
) -> None:
    """Add up C^T H C and C^T H w of rows that share a table, C naming the entry of each weight.

    Args:
        codes: uint8 [rows, in].
        scale: float64 [rows], of each row.
        lines: float64 [rows], what an error in each costs.
        hessian: float64 [in, in], symmetric.
        pull: float64 [rows, in], w H.
        normal: float64 [entries, entries], added to.
        right: float64 [entries], added to.
    """
    rows, columns = codes.shape
    size = right.size
    gathered = np.empty((columns, size))
    for r in range(rows):
        square = lines[r] * scale[r] * scale[r]
        gathered[:] = 0.0
        for i in range(columns):
            for j in range(columns):
                gathered[i, codes[r, j]] += hessian[i, j]
        for i in range(columns):
            entry = codes[r, i]
            right[entry] += lines[r] * scale[r] * pull[r, i]
            for other in range(size):
                normal[entry, other] += square * gathered[i, other]


@kernel(
    void(
        float64[:, ::1],
        given(float64),
        int64,
        int64,
        given(float64),
        given(float64, 1),
        int64,
        boolean,
        given(uint8),
        uint8[:, ::1],
        float64[:, ::1],
    )
)
def compensate(
    work: np.ndarray,
    lower: np.ndarray,
    begin: int,
    end: int,
    table: np.ndarray,
    scale: np.ndarray,
    height: int,
    free: bool,
    parents: np.ndarray,
    codes: np.ndarray,
    errors: np.ndarray,
) -> None:
    """Round the columns [begin, end) of every row, each column's error made up for by the later of them.

    Args:
        work: float64 [out, in], columns in the order they are rounded; what is left to round, changed.
        lower: float64 [in, in], see `Factor`.
        begin: first column.
        end: column after the last.
        table: float64 [tables, entries].
        scale: float64 [out], of each row.
        height: rows that share a table.
        free: whether any entry may be taken; otherwise one of the two whose code begins with the parent's.
        parents: uint8 [out, in], codes of one bit less.
        codes: uint8 [out, in], written.
        errors: float64 [out, end - begin], written: each error over its column's diagonal entry.
    """
    rows, entries = work.shape[0], table.shape[1]
    for r in range(rows):
        line, factor = table[r // height], scale[r]
        for j in range(begin, end):
            first = 0 if free else 2 * np.int64(parents[r, j])
            last = entries if free else first + 2
            best, chosen = np.inf, first
            for entry in range(first, last):
                miss = abs(work[r, j] - line[entry] * factor)
                if miss < best:
                    best, chosen = miss, entry
            codes[r, j] = chosen
            error = (work[r, j] - line[chosen] * factor) / lower[j, j]
            errors[r, j - begin] = error
            for later in range(j + 1, end):
                work[r, later] -= error * lower[later, j]


@kernel(void(given(float64, 1), given(float64, 1), given(uint8, 1), given(float64, 1), float64[::1]))
def halves(
    values: np.ndarray, costs: np.ndarray, parents: np.ndarray, table: np.ndarray, children: np.ndarray
) -> None:
    """Cut the numbers of every parent in two where that loses the least weighted squares.

    Args:
        values: float64 [n], rising.
        costs: float64 [n], of a squared error of each.
        parents: uint8 [n], the code of each.
        table: float64 [entries], what the parents stand for.
        children: float64 [2 * entries], written: the means of both halves; the parent's value where there is none.
    """
    entries = table.size
    weight, linear = np.zeros(entries), np.zeros(entries)
    for i in range(values.size):
        weight[parents[i]] += costs[i]
        linear[parents[i]] += costs[i] * (values[i] - table[parents[i]])
    below, sums = np.zeros(entries), np.zeros(entries)
    best = np.full(entries, -1.0)
    for entry in range(entries):
        children[2 * entry] = table[entry]
        children[2 * entry + 1] = table[entry]
    for i in range(values.size):
        entry = parents[i]
        below[entry] += costs[i]
        sums[entry] += costs[i] * (values[i] - table[entry])
        above = weight[entry] - below[entry]
        if below[entry] > 0.0 and above > 1e-12 * weight[entry]:
            rest = linear[entry] - sums[entry]
            gain = sums[entry] * sums[entry] / below[entry] + rest * rest / above
            if gain > best[entry]:
                best[entry] = gain
                children[2 * entry] = table[entry] + sums[entry] / below[entry]
                children[2 * entry + 1] = table[entry] + rest / above
