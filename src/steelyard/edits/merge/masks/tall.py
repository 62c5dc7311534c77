"""The masks themselves: built from task vectors, counted, packed."""

from __future__ import annotations

import numpy as np

LAMBDAS = (0.2, 0.3, 0.4, 0.5, 0.6)
"""The thresholds the paper's own search tries."""


def tall_mask(vector: np.ndarray, merged: np.ndarray, threshold: float) -> np.ndarray:
    """Return which entries of the merged task vector a task keeps, bool.

    Args:
        vector: the task's own vector, the expert less the base, float32.
        merged: the multi-task vector of the same shape, float32.
        threshold: lambda; the larger, the fewer entries are kept.

    Source: Wang et al. 2024, arXiv 2405.07813: |theta_0 - theta_t| against lambda |theta_MTL - theta_t|. The
    comparison is strict, as in the authors' code, so that what no task changed is kept by none.
    """
    kept: np.ndarray = np.abs(vector) > np.float32(threshold) * np.abs(merged - vector)
    return kept


def agreement(masks: np.ndarray) -> np.ndarray:
    """Return how many tasks keep each entry, from masks [tasks, entries].

    In the words of Wang et al. 2024, arXiv 2405.07813, an entry kept by none is catastrophic, one kept by a single
    task selfish.
    """
    return np.asarray(masks.sum(0, dtype=np.int16))


def pack(mask: np.ndarray) -> np.ndarray:
    """Return a mask's bits, eight a byte, the first entry in the highest bit: uint8 [entries / 8, rounded up]."""
    return np.packbits(mask.reshape(-1))


def unpack(bits: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return the entries [start, stop) of a packed mask, bool."""
    first = start // 8
    found = np.unpackbits(bits[first : (stop + 7) // 8])[start - 8 * first : stop - 8 * first]
    return found.view(np.bool_)
