"""Whether two stored tensors hold the same values, at a price that does not grow with the model."""

from __future__ import annotations

import numpy as np

from steelyard.weigh.holding import Holding
from steelyard.weights import Checkpoint

# Up to this many bytes are compared whole; larger tensors by samples, spread evenly.
_WHOLE = 1 << 22
_SAMPLES = 64
_SAMPLE = 4096


def same_values(checkpoint: Checkpoint, first: Holding, second: Holding) -> tuple[bool, bool]:
    """Compare what stands for two tensors.

    Returns:
        Whether no difference was found, and whether every byte was looked at.
    """
    if len(first.stored) != len(second.stored):
        return False, True
    whole = True
    for a, b in zip(sorted(first.stored), sorted(second.stored), strict=True):
        left, right = checkpoint.info(a), checkpoint.info(b)
        if (left.dtype, left.shape) != (right.dtype, right.shape):
            return False, True
        x, y = (checkpoint.tensor(name).reshape(-1).view(np.uint8) for name in (a, b))
        if left.nbytes <= _WHOLE:
            if not np.array_equal(x, y):
                return False, True
            continue
        whole = False
        for begin in np.linspace(0, left.nbytes - _SAMPLE, _SAMPLES).astype(int):
            if not np.array_equal(x[begin : begin + _SAMPLE], y[begin : begin + _SAMPLE]):
                return False, True
    return True, whole
