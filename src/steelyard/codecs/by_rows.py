"""Work on a whole tensor, done by chunks of rows in threads."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from steelyard.codecs.base import Codec, Parts, numpy_type
from steelyard.parallel import map_threads

# Elements that one thread works on at a time: 2 MB of bfloat16 and what becomes of them stay in the cache.
_CHUNK = 1 << 20


def chunks(codec: Codec, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (first row, end) of chunks that `codec` can encode apart; one chunk where it cannot."""
    rows = shape[0] if shape else 1
    quantum = codec.row_quantum
    if quantum is None or len(shape) < 2:
        return [(0, rows)]
    step = max(1, _CHUNK // (max(1, math.prod(shape[1:])) * quantum)) * quantum
    return [(start, min(start + step, rows)) for start in range(0, rows, step)] or [(0, 0)]


def slice_parts(codec: Codec, parts: Mapping[str, np.ndarray], start: int, stop: int) -> Parts:
    """Return views of what `parts` hold of the rows [start, stop), one of the ranges from `chunks`."""
    quantum = codec.row_quantum or 1
    return {
        key: array[codec.part_row(key, start) : codec.part_row(key, stop) if stop % quantum == 0 else None]
        for key, array in parts.items()
    }


def encode_by_rows(codec: Codec, weight: np.ndarray, name: str) -> Parts:
    """Encode a tensor by `codec.encode_rows` in threads, with no more scratch than the chunks at work."""
    ranges = chunks(codec, weight.shape)
    if len(ranges) == 1:
        return codec.encode_rows(weight, name)
    parts = {key: np.empty(shape, numpy_type(dtype)) for key, (dtype, shape) in codec.parts(weight.shape).items()}

    def run(bounds: tuple[int, int]) -> None:
        start, stop = bounds
        encoded = codec.encode_rows(weight[start:stop], name, start)
        for key, target in slice_parts(codec, parts, start, stop).items():
            target[...] = encoded[key]

    map_threads(run, ranges)
    return parts


def relative_error(codec: Codec, weight: np.ndarray, parts: Mapping[str, np.ndarray]) -> float:
    """Return |decoded - weight| / |weight| in the Frobenius norm, without a decoded copy of a large weight.

    Args:
        codec: of the parts.
        weight: what was encoded: float32, bfloat16 or float16.
        parts: the encoded tensor.

    Returns:
        The ratio; for a weight of zeros 0 if they are decoded exactly, else infinity.
    """

    def run(bounds: tuple[int, int]) -> tuple[float, float]:
        start, stop = bounds
        if len(ranges) == 1:
            return codec.residual(weight, parts)
        return codec.residual(weight[start:stop], slice_parts(codec, parts, start, stop))

    ranges = chunks(codec, weight.shape)
    sums = map_threads(run, ranges)
    lost = math.fsum(pair[0] for pair in sums)
    kept = math.fsum(pair[1] for pair in sums)
    if kept == 0:
        return math.inf if lost else 0.0
    return math.sqrt(lost / kept)
