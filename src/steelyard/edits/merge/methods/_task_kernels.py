"""The loops of merges of task vectors, compiled by numba; see `_task_vectors` and `_sparsifiers`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from steelyard.compiled import given, inner, kernel

_VECTOR: Any = numba.float32[::1]
_MATRIX: Any = numba.float32[:, ::1]
_GIVEN = given(numba.float32, 1)


@inner
def _uniform(key: Any, position: int) -> Any:
    """Return a uniform number of 32 bits as uint64: SplitMix64 (Steele et al. 2014) at a position."""
    z = key + np.uint64(position) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(32)


@kernel(numba.void(_VECTOR, numba.uint64, numba.int64, numba.uint64))
def drop(values: np.ndarray, key: int, start: int, limit: int) -> None:
    """Set to zero the entries whose draw is at or above a limit.

    Args:
        values: float32 [entries], overwritten.
        key: of the draws.
        start: position of the first entry.
        limit: 2^32 times the chance to be kept.
    """
    for i in range(values.size):
        values[i] = values[i] if _uniform(key, start + i) < limit else np.float32(0)


@kernel(numba.void(_VECTOR, numba.uint64, numba.int64, numba.int64, numba.boolean, numba.uint64))
def drop_parts(values: np.ndarray, key: int, start: int, width: int, rows: bool, limit: int) -> None:
    """Set to zero the rows, or the columns, of a matrix whose draw is at or above a limit.

    Args:
        values: float32 [entries], overwritten.
        key: of the draws.
        start: position of the first entry.
        width: entries of a row.
        rows: drop rows rather than columns.
        limit: 2^32 times the chance to be kept.
    """
    for i in range(values.size):
        part = (start + i) // width if rows else (start + i) % width
        if _uniform(key, part) >= limit:
            values[i] = np.float32(0)


@kernel(
    numba.void(
        _VECTOR,
        given(numba.uint32, 1),
        numba.int64,
        numba.float64,
        numba.float64,
        numba.uint64,
        numba.int64,
    )
)
def drop_by_rank(
    values: np.ndarray, keys: np.ndarray, width: int, lowest: float, span: float, key: int, start: int
) -> None:
    """Set entries to zero with a chance that falls with the rank of their magnitude in their row.

    Ranks come from a radix sort of three passes over eleven bits, so that equal magnitudes rank by position.

    Args:
        values: float32 [entries], whole rows, overwritten.
        keys: uint32 [entries], magnitudes as ordered bits.
        width: entries of a row.
        lowest: chance to be kept of the smallest.
        span: by how much that of the largest is greater.
        key: of the draws.
        start: position of the first entry.
    """
    order, other = np.empty(width, np.int32), np.empty(width, np.int32)
    for row in range(0, values.size, width):
        for i in range(width):
            order[i] = i
        for shift in (0, 11, 22):
            places = np.zeros(2049, np.int64)
            for i in range(width):
                places[((keys[row + i] >> np.uint32(shift)) & np.uint32(2047)) + 1] += 1
            for digit in range(2048):
                places[digit + 1] += places[digit]
            for i in range(width):
                entry = order[i]
                digit = (keys[row + entry] >> np.uint32(shift)) & np.uint32(2047)
                other[places[digit]] = entry
                places[digit] += 1
            order, other = other, order
        for rank in range(width):
            at = row + order[rank]
            share = rank / (width - 1) if width > 1 else 0.5
            if np.float64(_uniform(key, start + at)) >= (lowest + share * span) * 4294967296.0:
                values[at] = np.float32(0)


@kernel(numba.void(_MATRIX, numba.int64, _GIVEN, _GIVEN, numba.boolean, numba.boolean, numba.float32, _VECTOR))
def mix(
    values: np.ndarray,
    base: int,
    weights: np.ndarray,
    factors: np.ndarray,
    elect: bool,
    normalize: bool,
    scale: float,
    merged: np.ndarray,
) -> None:
    """Write the base plus the mixture of task vectors.

    Args:
        values: float32 [models, entries], task vectors, but in the base's row the base itself.
        base: the base's row.
        weights: float32 [models]; the base's is not used.
        factors: float32 [models], by which task vectors grow before they are weighed.
        elect: leave out, entry by entry, what goes against the sign of the weighted sum.
        normalize: divide by the sum of the weights that took part.
        scale: factor of the mixture.
        merged: float32 [entries], overwritten.
    """
    models, entries = values.shape
    total = np.empty(1024, np.float32)
    mixed = np.empty(1024, np.float32)
    divisor = np.empty(1024, np.float32)
    everything = np.float32(0)
    for row in range(models):
        if row != base:
            everything += weights[row]
    if abs(everything) < np.float32(1e-8):
        everything = np.float32(1)
    for start in range(0, entries, 1024):
        size = min(1024, entries - start)
        origin = values[base, start : start + size]
        target = merged[start : start + size]
        total[:size] = np.float32(0)
        for row in range(models):
            if row != base:
                delta, share = values[row, start : start + size], weights[row] * factors[row]
                for i in range(size):
                    total[i] += share * delta[i]
        if not elect:
            if normalize:
                for i in range(size):
                    total[i] /= everything
            for i in range(size):
                target[i] = origin[i] + scale * total[i]
            continue
        mixed[:size] = np.float32(0)
        divisor[:size] = np.float32(0)
        for row in range(models):
            if row != base:
                delta, weight = values[row, start : start + size], weights[row]
                share = weight * factors[row]
                for i in range(size):
                    part = share * delta[i]
                    agrees = (part > 0) if total[i] >= 0 else (part < 0)
                    mixed[i] += part if agrees else np.float32(0)
                    divisor[i] += weight if agrees else np.float32(0)
        if normalize:
            for i in range(size):
                mixed[i] /= divisor[i] if divisor[i] != 0 else np.float32(1)
        for i in range(size):
            target[i] = origin[i] + scale * mixed[i]
