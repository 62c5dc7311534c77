"""Sums over long runs of float32 numbers in double precision, compiled by numba.

Many running sums stand side by side, so that processors add several at a time and every machine in one order.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from steelyard.compiled import given, inner, kernel

_ROW = given(numba.float32, 1)
_VALUES: Any = numba.float32[:, ::1]
_LANES = 32


@inner
def _dot(left: np.ndarray, right: np.ndarray) -> float:
    """Return the inner product of two runs, float32 [entries]."""
    sums = np.zeros(_LANES)
    whole = left.size // _LANES * _LANES
    for start in range(0, whole, _LANES):
        first, second = left[start : start + _LANES], right[start : start + _LANES]
        for lane in range(_LANES):
            sums[lane] += np.float64(first[lane]) * np.float64(second[lane])
    total = 0.0
    for i in range(whole, left.size):
        total += np.float64(left[i]) * np.float64(right[i])
    for lane in range(_LANES):
        total += sums[lane]
    return total


@kernel(numba.void(given(numba.float32, 2), numba.int64, numba.float64[:, :, ::1]))
def products(vectors: np.ndarray, width: int, gram: np.ndarray) -> None:
    """Write the inner products of all pairs of vectors, each cut into runs.

    Args:
        vectors: float32 [vectors, entries].
        width: entries of a run.
        gram: float64 [runs, vectors, vectors], overwritten.
    """
    for run in range(gram.shape[0]):
        here = slice(run * width, (run + 1) * width)
        for i in range(vectors.shape[0]):
            for j in range(i + 1):
                product = _dot(vectors[i, here], vectors[j, here])
                gram[run, i, j] = product
                gram[run, j, i] = product


@kernel(numba.void(given(numba.float32, 2), numba.int64, numba.float64[:, :, ::1]))
def column_products(vectors: np.ndarray, width: int, gram: np.ndarray) -> None:
    """Add up the inner products of all pairs of columns of matrices.

    Args:
        vectors: float32 [vectors, entries], rows of matrices one after the other.
        width: columns of the matrices.
        gram: float64 [vectors, vectors, columns]; the part with i >= j is added to.
    """
    for start in range(0, vectors.shape[1], width):
        for i in range(vectors.shape[0]):
            for j in range(i + 1):
                left, right = vectors[i, start : start + width], vectors[j, start : start + width]
                sums = gram[i, j]
                for column in range(width):
                    sums[column] += np.float64(left[column]) * np.float64(right[column])


@kernel(numba.float64(_ROW))
def absolute(values: np.ndarray) -> float:
    """Return the sum of magnitudes, float32 [entries]."""
    sums = np.zeros(_LANES)
    whole = values.size // _LANES * _LANES
    for start in range(0, whole, _LANES):
        here = values[start : start + _LANES]
        for lane in range(_LANES):
            sums[lane] += np.float64(abs(here[lane]))
    total = 0.0
    for i in range(whole, values.size):
        total += np.float64(abs(values[i]))
    for lane in range(_LANES):
        total += sums[lane]
    return total


@kernel(numba.void(_VALUES, numba.int64))
def subtract(values: np.ndarray, base: int) -> None:
    """Take one row from all others; float32 [models, entries], overwritten."""
    for row in range(values.shape[0]):
        if row != base:
            target = values[row]
            for i in range(values.shape[1]):
                target[i] -= values[base, i]


@kernel(numba.void(_VALUES, given(numba.float64, 2), numba.int64, numba.float32[::1]))
def combine(values: np.ndarray, coefficients: np.ndarray, width: int, merged: np.ndarray) -> None:
    """Write the weighted sum of rows, added up in double precision, with weights for each run of entries.

    Args:
        values: float32 [models, entries].
        coefficients: float64 [runs, models].
        width: entries of a run.
        merged: float32 [entries], overwritten.
    """
    sums = np.empty(1024)
    for run in range(coefficients.shape[0]):
        share = coefficients[run]
        for start in range(run * width, (run + 1) * width, 1024):
            size = min(1024, (run + 1) * width - start)
            first = values[0, start : start + size]
            for i in range(size):
                sums[i] = share[0] * np.float64(first[i])
            for row in range(1, values.shape[0]):
                chunk = values[row, start : start + size]
                for i in range(size):
                    sums[i] += share[row] * np.float64(chunk[i])
            for i in range(size):
                merged[start + i] = np.float32(sums[i])


@kernel(numba.void(_VALUES, given(numba.float64, 2), numba.float32[::1]))
def combine_columns(values: np.ndarray, coefficients: np.ndarray, merged: np.ndarray) -> None:
    """Write the weighted sum of rows with weights for each column of matrices.

    Args:
        values: float32 [models, entries], rows of matrices one after the other.
        coefficients: float64 [models, columns].
        merged: float32 [entries], overwritten.
    """
    width = coefficients.shape[1]
    sums = np.empty(width)
    for start in range(0, values.shape[1], width):
        sums[:] = 0.0
        for row in range(values.shape[0]):
            share, here = coefficients[row], values[row, start : start + width]
            for column in range(width):
                sums[column] += share[column] * np.float64(here[column])
        target = merged[start : start + width]
        for column in range(width):
            target[column] = np.float32(sums[column])
