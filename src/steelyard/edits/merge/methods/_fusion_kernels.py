"""The loops of Arcee fusion, compiled by numba; see `arcee_fusion`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from steelyard.compiled import given, inner, kernel
from steelyard.edits.merge.methods._functions import exponential64, quotient64

_ROW = given(numba.float32, 1)
_VECTOR: Any = numba.float32[::1]
_LANES = 32
# Up to this ratio of the constant to a probability the series for log(1 + x) holds to 1e-13.
_SMALL = 0.005


@inner
def _extremes(row: np.ndarray) -> tuple[float, float]:
    """Return the least and the greatest entry of a row."""
    low, high = np.empty(_LANES, np.float32), np.empty(_LANES, np.float32)
    low[:] = row[0]
    high[:] = row[0]
    for start in range(0, row.size, _LANES):
        size = min(_LANES, row.size - start)
        here = row[start : start + size]
        for lane in range(size):
            low[lane] = here[lane] if here[lane] < low[lane] else low[lane]
            high[lane] = here[lane] if here[lane] > high[lane] else high[lane]
    least, greatest = low[0], high[0]
    for lane in range(1, _LANES):
        least, greatest = min(least, low[lane]), max(greatest, high[lane])
    return np.float64(least), np.float64(greatest)


@inner
def _sum(values: np.ndarray) -> float:
    """Return the sum, many running sums side by side."""
    sums = np.zeros(_LANES)
    whole = values.size // _LANES * _LANES
    for start in range(0, whole, _LANES):
        here = values[start : start + _LANES]
        for lane in range(_LANES):
            sums[lane] += here[lane]
    total = 0.0
    for i in range(whole, values.size):
        total += values[i]
    for lane in range(_LANES):
        total += sums[lane]
    return total


@inner
def _softmax(row: np.ndarray, shares: np.ndarray) -> tuple[float, float]:
    """Write the softmax of a row; return the logarithm of what its powers were divided by, and the least share."""
    least, greatest = _extremes(row)
    for i in range(row.size):
        shares[i] = exponential64(np.float64(row[i]) - greatest)
    total = _sum(shares)
    factor = quotient64(1.0, total)
    for i in range(row.size):
        shares[i] *= factor
    return greatest + np.log(total), exponential64(least - greatest) * factor


@inner
def _log1p(x: float) -> float:
    """Return log(1 + x) of a number from 0 to `_SMALL`."""
    return ((((x * 0.2 - 0.25) * x + 1 / 3) * x - 0.5) * x + 1.0) * x


@kernel(numba.void(_ROW, _ROW, numba.int64, numba.float64, _VECTOR))
def divergences(other: np.ndarray, base: np.ndarray, width: int, constant: float, found: np.ndarray) -> None:
    """Write the Kullback-Leibler divergence of the softmaxes of each row, with a constant added to every share.

    Logarithms of shares are differences of what the exponents were made from; that of a share plus the constant is
    the share's and log(1 + constant / share).

    Args:
        other: float32 [rows * width], the first distribution.
        base: float32 [rows * width], the second.
        width: entries of a row.
        constant: what is added.
        found: float32 [rows], overwritten.
    """
    first, second, terms = np.empty(width), np.empty(width), np.empty(width)
    for row in range(found.size):
        here, there = other[row * width : (row + 1) * width], base[row * width : (row + 1) * width]
        norm, least = _softmax(here, first)
        norm_base, least_base = _softmax(there, second)
        if constant <= _SMALL * min(least, least_base):
            offset = norm_base - norm
            for i in range(width):
                plain = np.float64(here[i]) - np.float64(there[i]) + offset
                more = _log1p(quotient64(constant, first[i])) - _log1p(quotient64(constant, second[i]))
                terms[i] = (first[i] + constant) * (plain + more)
        else:
            for i in range(width):
                ratio = quotient64(first[i] + constant, second[i] + constant)
                terms[i] = (first[i] + constant) * np.log(ratio)
        divergence = _sum(terms)
        found[row] = np.float32(max(divergence, 0.0))


@kernel(numba.void(_ROW, _ROW, _ROW, numba.int64, _VECTOR))
def importances(other: np.ndarray, base: np.ndarray, divergence: np.ndarray, width: int, found: np.ndarray) -> None:
    """Write the magnitude of every change times the divergence of its row; float32 [entries]."""
    for row in range(divergence.size):
        here, there = other[row * width : (row + 1) * width], base[row * width : (row + 1) * width]
        target, factor = found[row * width : (row + 1) * width], divergence[row]
        for i in range(width):
            target[i] = np.float32(abs(np.float32(here[i] - there[i])) * factor)


@kernel(numba.void(_ROW, _ROW, _ROW, numba.float32, _VECTOR))
def take(other: np.ndarray, base: np.ndarray, importance: np.ndarray, threshold: float, merged: np.ndarray) -> None:
    """Write the base plus the changes whose importance reaches a threshold; float32 [entries]."""
    for i in range(merged.size):
        change = np.float32(other[i] - base[i])
        merged[i] = np.float32(base[i] + change) if importance[i] >= threshold else base[i]
