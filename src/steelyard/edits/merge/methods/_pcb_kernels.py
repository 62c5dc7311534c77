"""The loops of PCB-Merging, compiled by numba; see `pcb_merging`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from steelyard.compiled import given, inner, kernel
from steelyard.edits.merge.methods._functions import exponential32, quotient, tanh32

_MODELS = given(numba.float32, 2)
_EACH = given(numba.float32, 1)
_VECTOR: Any = numba.float32[::1]
_TILE = 1024


@inner
def _task_vectors(
    values: np.ndarray,
    base: int,
    low: np.ndarray,
    span: np.ndarray,
    normalized: bool,
    start: int,
    size: int,
    deltas: np.ndarray,
    levels: np.ndarray,
    others: np.ndarray,
) -> None:
    """Write the task vectors of a tile, their clamped magnitudes in [0, 1], and what they are compared with."""
    origin = values[base, start : start + size]
    for i in range(size):
        others[i] = np.float32(0)
    for row in range(values.shape[0]):
        if row == base:
            continue
        here, delta, level = values[row, start : start + size], deltas[row], levels[row]
        smallest, height = low[row], span[row]
        largest = np.float32(smallest + height)
        for i in range(size):
            difference = np.float32(here[i] - origin[i])
            delta[i] = difference
            above = np.float32(min(max(abs(difference), smallest), largest) - smallest)
            level[i] = quotient(above, height) if height > 0 else np.float32(0)
        if normalized:
            for i in range(size):
                signed = level[i] if delta[i] > 0 else np.float32(-level[i])
                others[i] += signed if delta[i] != 0 else np.float32(0)
        else:
            for i in range(size):
                others[i] += delta[i]


@inner
def _scores(delta: np.ndarray, level: np.ndarray, others: np.ndarray, count: Any, scores: np.ndarray) -> None:
    """Write the scores of one task divided by exp(count), so that they stay finite."""
    for i in range(scores.size):
        within = exponential32(np.float32(count * np.float32(level[i] * level[i] - np.float32(1))))
        scores[i] = np.float32(within * tanh32(np.float32(delta[i] * others[i])))


@kernel(numba.void(_MODELS, numba.int64, _EACH, _EACH, numba.boolean, numba.uint32[:, ::1]))
def score_keys(
    values: np.ndarray, base: int, low: np.ndarray, span: np.ndarray, normalized: bool, keys: np.ndarray
) -> None:
    """Write keys in the order of the scores.

    Args:
        values: float32 [models, entries].
        base: the base's row.
        low: float32 [models], magnitude up to which a task vector is clamped.
        span: float32 [models], how far above it the other end lies.
        normalized: compare by normalized task vectors.
        keys: uint32 [experts, entries], overwritten; see `_selection.ordered`.
    """
    models, entries = values.shape
    deltas, levels = np.empty((models, _TILE), np.float32), np.empty((models, _TILE), np.float32)
    others, scores = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    bits = scores.view(np.uint32)
    count = np.float32(models - 1)
    for start in range(0, entries, _TILE):
        size = min(_TILE, entries - start)
        _task_vectors(values, base, low, span, normalized, start, size, deltas, levels, others)
        expert = 0
        for row in range(models):
            if row == base:
                continue
            _scores(deltas[row, :size], levels[row, :size], others, count, scores[:size])
            target = keys[expert, start : start + size]
            for i in range(size):
                negative = np.uint32(np.uint32(0) - np.uint32(bits[i] >> np.uint32(31)))
                target[i] = np.uint32(bits[i] ^ np.uint32(negative | np.uint32(0x80000000)))
            expert += 1


@kernel(numba.void(_MODELS, numba.int64, _EACH, _EACH, numba.boolean, _EACH, _EACH, _EACH, _VECTOR))
def balance(
    values: np.ndarray,
    base: int,
    low: np.ndarray,
    span: np.ndarray,
    normalized: bool,
    floor: np.ndarray,
    height: np.ndarray,
    weights: np.ndarray,
    merged: np.ndarray,
) -> None:
    """Write the base plus the average of clamped task vectors by their scores.

    Args:
        values: float32 [models, entries].
        base: the base's row.
        low: float32 [models], magnitude up to which a task vector is clamped.
        span: float32 [models], how far above it the other end lies.
        normalized: compare by normalized task vectors.
        floor: float32 [models], score that counts as 0.
        height: float32 [models], by how much the greatest is above it.
        weights: float32 [models], factors of task vectors.
        merged: float32 [entries], overwritten.
    """
    models, entries = values.shape
    deltas, levels = np.empty((models, _TILE), np.float32), np.empty((models, _TILE), np.float32)
    others, scores = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    mixed, total = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    count = np.float32(models - 1)
    for start in range(0, entries, _TILE):
        size = min(_TILE, entries - start)
        _task_vectors(values, base, low, span, normalized, start, size, deltas, levels, others)
        mixed[:size] = np.float32(0)
        total[:size] = np.float32(0)
        for row in range(models):
            if row == base:
                continue
            delta = deltas[row, :size]
            _scores(delta, levels[row, :size], others, count, scores[:size])
            smallest, largest = low[row], np.float32(low[row] + span[row])
            least, range_, weight = floor[row], height[row], weights[row]
            for i in range(size):
                share = quotient(np.float32(scores[i] - least), range_) if range_ > 0 else np.float32(0)
                share = max(share, np.float32(0))
                clamped = min(max(abs(delta[i]), smallest), largest)
                signed = clamped if delta[i] > 0 else np.float32(-clamped)
                part = np.float32(signed * weight) if delta[i] != 0 else np.float32(0)
                mixed[i] += np.float32(part * share)
                total[i] += share
        origin, target = values[base, start : start + size], merged[start : start + size]
        for i in range(size):
            target[i] = np.float32(origin[i] + quotient(mixed[i], max(total[i], np.float32(1e-12))))
