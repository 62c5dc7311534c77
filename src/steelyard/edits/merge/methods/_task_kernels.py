"""The loops of merges of task vectors, compiled by numba; see `_task_vectors` and `_sparsifiers`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from steelyard.compiled import given, inner, kernel
from steelyard.edits.merge.methods._functions import quotient

_VECTOR: Any = numba.float32[::1]
_MATRIX: Any = numba.float32[:, ::1]
_GIVEN = given(numba.float32, 1)
_LANES = 32


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

    Ranks come from a radix sort of two passes over eleven bits each, without the sign; magnitudes that agree in
    these 22 bits, which is to within 1 in 16000, rank by position.

    Args:
        values: float32 [entries], whole rows, overwritten.
        keys: uint32 [entries], magnitudes as ordered bits.
        width: entries of a row.
        lowest: chance to be kept of the smallest.
        span: by how much that of the largest is greater.
        key: of the draws.
        start: position of the first entry.
    """
    kept = values.view(np.uint32)
    limits, draws, ordered = np.empty(width, np.uint64), np.empty(width, np.uint64), np.empty(width, np.uint64)
    for rank in range(width):
        share = rank / (width - 1) if width > 1 else 0.5
        limits[rank] = np.uint64(np.ceil((lowest + share * span) * 4294967296.0))
    lower, upper = np.empty(2048, np.int64), np.empty(2048, np.int64)
    for row in range(0, values.size, width):
        lower[:] = 0
        upper[:] = 0
        for i in range(width):
            draws[i] = _uniform(key, start + row + i)
        for i in range(width):
            bits = keys[row + i]
            lower[(bits >> np.uint32(9)) & np.uint32(2047)] += 1
            upper[bits >> np.uint32(20)] += 1
        below, under = 0, 0
        for digit in range(2048):
            here, there = lower[digit], upper[digit]
            lower[digit], upper[digit] = below, under
            below += here
            under += there
        for i in range(width):
            bits = keys[row + i]
            digit = (bits >> np.uint32(9)) & np.uint32(2047)
            ordered[lower[digit]] = np.uint64(bits >> np.uint32(20)) << np.uint64(32) | np.uint64(i)
            lower[digit] += 1
        # In the order of the lower digit, the count of the upper one so far is the rank.
        for i in range(width):
            digit = ordered[i] >> np.uint64(32)
            at = row + np.int64(ordered[i] & np.uint64(0xFFFFFFFF))
            rank = upper[digit]
            upper[digit] = rank + 1
            # Without a branch: which way it goes is drawn, so that no processor could foresee it.
            kept[at] = np.uint32(kept[at] * np.uint32(draws[at - row] < limits[rank]))


@kernel(numba.void(given(numba.float32, 2), numba.int64, _VECTOR))
def variance(values: np.ndarray, base: int, found: np.ndarray) -> None:
    """Write the variance over all rows but the base's, float32 [models, entries] to [entries]."""
    mean, square = np.empty(1024, np.float32), np.empty(1024, np.float32)
    count = np.float32(values.shape[0] - 1)
    for start in range(0, values.shape[1], 1024):
        size = min(1024, values.shape[1] - start)
        mean[:] = np.float32(0)
        square[:] = np.float32(0)
        for row in range(values.shape[0]):
            if row != base:
                here = values[row, start : start + size]
                for i in range(size):
                    mean[i] += here[i]
        for i in range(size):
            mean[i] /= count
        for row in range(values.shape[0]):
            if row != base:
                here = values[row, start : start + size]
                for i in range(size):
                    square[i] += (here[i] - mean[i]) * (here[i] - mean[i])
        target = found[start : start + size]
        for i in range(size):
            target[i] = square[i] / count


@kernel(numba.void(given(numba.float32, 2), numba.int64, numba.float32, given(numba.float32, 1), _VECTOR))
def share(values: np.ndarray, base: int, epsilon: float, factors: np.ndarray, merged: np.ndarray) -> None:
    """Write the base plus what experts changed, averaged over those that changed an entry; see `_ram`.

    Args:
        values: float32 [models, entries].
        base: the base's row.
        epsilon: change up to which an entry is unchanged.
        factors: float32 [models], of entries that one expert alone changed.
        merged: float32 [entries], overwritten.
    """
    for i in range(values.shape[1]):
        total, count, alone = np.float32(0), 0, np.float32(1)
        for row in range(values.shape[0]):
            delta = values[row, i] - values[base, i]
            if abs(delta) > epsilon:
                total += delta
                count += 1
                alone = factors[row]
        merged[i] = values[base, i] + (total * alone if count == 1 else total / np.float32(max(count, 1)))


@kernel(numba.void(given(numba.float32, 2), numba.int64, numba.float32, numba.int64[:, ::1]))
def count_changes(values: np.ndarray, base: int, epsilon: float, counts: np.ndarray) -> None:
    """Add up, for each model, the entries it changed with others and those it changed alone; int64 [2, models]."""
    for i in range(values.shape[1]):
        count = 0
        for row in range(values.shape[0]):
            count += abs(values[row, i] - values[base, i]) > epsilon
        if count:
            for row in range(values.shape[0]):
                if abs(values[row, i] - values[base, i]) > epsilon:
                    counts[0 if count > 1 else 1, row] += 1


@inner
def _task_vector(
    values: np.ndarray,
    base: np.ndarray,
    subtracted: bool,
    floor: float,
    ceiling: float,
    key: Any,
    chance: Any,
    start: int,
    delta: np.ndarray,
) -> None:
    """Write what is kept of the task vector of a few entries."""
    if subtracted:
        for i in range(values.size):
            delta[i] = values[i]
        return
    for i in range(values.size):
        difference = values[i] - base[i]
        magnitude = abs(difference)
        delta[i] = difference if (magnitude >= floor) & (magnitude < ceiling) else np.float32(0)
    if chance < np.uint64(4294967296):
        for i in range(values.size):
            delta[i] = delta[i] if _uniform(key, start + i) < chance else np.float32(0)


@kernel(numba.void(_GIVEN, _GIVEN, numba.uint64, numba.int64, numba.uint64, numba.float64[::1]))
def weigh_dropped(
    values: np.ndarray, base: np.ndarray, key: int, start: int, chance: int, sums: np.ndarray
) -> None:
    """Write the sum of magnitudes of a task vector, and that of what is left of it by `drop`; float64 [2]."""
    before, after = np.zeros(_LANES), np.zeros(_LANES)
    for begin in range(0, values.size, _LANES):
        size = min(_LANES, values.size - begin)
        here, origin = values[begin : begin + size], base[begin : begin + size]
        for lane in range(size):
            magnitude = np.float64(abs(here[lane] - origin[lane]))
            before[lane] += magnitude
            after[lane] += magnitude if _uniform(key, start + begin + lane) < chance else 0.0
    sums[0] = sums[1] = 0.0
    for lane in range(_LANES):
        sums[0] += before[lane]
        sums[1] += after[lane]


@kernel(
    numba.void(
        _MATRIX,
        numba.int64,
        numba.boolean,
        given(numba.float32, 2),
        given(numba.uint64, 2),
        numba.int64,
        given(numba.float32, 2),
        numba.boolean,
        numba.float32,
        numba.float32,
        _VECTOR,
    )
)
def mix(
    values: np.ndarray,
    base: int,
    subtracted: bool,
    limits: np.ndarray,
    draws: np.ndarray,
    position: int,
    shares: np.ndarray,
    elect: bool,
    divisor: float,
    scale: float,
    merged: np.ndarray,
) -> None:
    """Write the base plus the mixture of task vectors.

    Args:
        values: float32 [models, entries], the models; or task vectors, but in the base's row the base itself.
        base: the base's row.
        subtracted: whether they are task vectors.
        limits: float32 [2, models], the smallest magnitude that is kept and the smallest above it that is not, of
            models that are not task vectors yet.
        draws: uint64 [2, models], keys of draws and 2^32 times the chance to be kept, of the same.
        position: of the first entry.
        shares: float32 [3, models], factors of task vectors when signs are elected, when they are mixed, and what
            each adds to the divisor where it takes part; the base's are not used.
        elect: leave out, entry by entry, what goes against the sign of the sum.
        divisor: of the mixture; or, if signs are elected, its smallest value: negative leaves one that is not 0 as
            it is and takes 1 for 0, and infinite means to divide by 1 everywhere.
        scale: factor of the mixture.
        merged: float32 [entries], overwritten.
    """
    models, entries = values.shape
    deltas = np.empty((models, 1024), np.float32)
    total, mixed, parts = np.empty(1024, np.float32), np.empty(1024, np.float32), np.empty(1024, np.float32)
    for start in range(0, entries, 1024):
        size = min(1024, entries - start)
        origin = values[base, start : start + size]
        target = merged[start : start + size]
        total[:size] = np.float32(0)
        for row in range(models):
            if row != base:
                delta = deltas[row, :size]
                here = values[row, start : start + size]
                floor, ceiling, key, chance = limits[0, row], limits[1, row], draws[0, row], draws[1, row]
                _task_vector(here, origin, subtracted, floor, ceiling, key, chance, position + start, delta)
                share = shares[0, row]
                for i in range(size):
                    total[i] += share * delta[i]
        if not elect:
            for i in range(size):
                target[i] = origin[i] + scale * quotient(total[i], divisor)
            continue
        mixed[:size] = np.float32(0)
        parts[:size] = np.float32(0)
        for row in range(models):
            if row != base:
                delta = deltas[row, :size]
                sign = np.float32(1) if shares[0, row] >= 0 else np.float32(-1)
                share, part = shares[1, row], shares[2, row]
                for i in range(size):
                    signed = sign * delta[i]
                    agrees = (signed > 0) if total[i] >= 0 else (signed < 0)
                    mixed[i] += share * delta[i] if agrees else np.float32(0)
                    parts[i] += part if agrees else np.float32(0)
        if divisor < 0:
            for i in range(size):
                mixed[i] = quotient(mixed[i], parts[i] if parts[i] != 0 else np.float32(1))
        elif divisor < np.inf:
            for i in range(size):
                mixed[i] = quotient(mixed[i], max(parts[i], divisor))
        for i in range(size):
            target[i] = origin[i] + scale * mixed[i]
