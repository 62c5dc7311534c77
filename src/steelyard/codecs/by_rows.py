"""Codecs that encode rows apart, and work on a whole tensor done by chunks of rows in threads."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from steelyard.codecs.base import Codec, Parts, Shape, numpy_type
from steelyard.parallel import map_threads

# Elements that one thread works on at a time: 2 MB of bfloat16 and what becomes of them stay in the cache.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class RowCodec(Codec):
    """A codec under which rows, or blocks of rows, are stored without regard to the others."""

    @property
    @abstractmethod
    def row_quantum(self) -> int | None:
        """Rows of a block; None where a tensor's rows are one block, however many they are."""

    @abstractmethod
    def encode_rows(self, rows: np.ndarray, name: str = "weight", first_row: int = 0) -> Parts:
        """Encode whole blocks of rows on the calling thread; the last block of a tensor may be shorter.

        Args:
            rows: float32, bfloat16 or float16.
            name: what errors call the tensor.
            first_row: of `rows` in the whole tensor, for errors.

        Raises:
            UserError: if a value is NaN, infinite or beyond what the codec can hold.
        """

    def part_row(self, part: str, row: int) -> int:
        """Return the row of `part` at which rows of the weight from `row`, the first of a block, begin."""
        return row

    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Encode a tensor in threads, with no more scratch than the chunks at work; see `encode_rows`."""
        targets = self.parts(weight.shape)
        ranges = chunks(self, weight.shape)
        if len(ranges) == 1:
            return self.encode_rows(weight, name)
        parts = {key: np.empty(shape, numpy_type(dtype)) for key, (dtype, shape) in targets.items()}

        def run(bounds: tuple[int, int]) -> None:
            start, stop = bounds
            encoded = self.encode_rows(weight[start:stop], name, start)
            for key, target in slice_parts(self, parts, start, stop).items():
                target[...] = encoded[key]

        map_threads(run, ranges)
        return parts


def chunks(codec: Codec, shape: Shape) -> list[tuple[int, int]]:
    """Return (first row, end) of chunks that `codec` can encode apart; one chunk where it cannot."""
    rows = shape[0] if shape else 1
    quantum = codec.row_quantum if isinstance(codec, RowCodec) else None
    if quantum is None or len(shape) < 2:
        return [(0, rows)]
    step = max(1, _CHUNK // (max(1, math.prod(shape[1:])) * quantum)) * quantum
    return [(start, min(start + step, rows)) for start in range(0, rows, step)] or [(0, 0)]


def slice_parts(codec: Codec, parts: Mapping[str, np.ndarray], start: int, stop: int) -> Parts:
    """Return views of what `parts` hold of the rows [start, stop), one of the ranges from `chunks`."""
    if not isinstance(codec, RowCodec) or codec.row_quantum is None:
        return dict(parts)
    quantum = codec.row_quantum
    return {
        key: array[codec.part_row(key, start) : codec.part_row(key, stop) if stop % quantum == 0 else None]
        for key, array in parts.items()
    }


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
