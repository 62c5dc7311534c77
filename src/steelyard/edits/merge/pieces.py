"""A merge method at work on one tensor in this process: for measuring candidates and for jobs of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from steelyard.edits.merge.base import Merge, Piece

ENTRIES = 1 << 16
"""About how many entries of each model are in memory at once."""

Reader = Callable[[int, int], np.ndarray]
"""Returns the entries [start, stop) of the flattened tensor in every model, a fresh float32 [models, entries]."""


def cuts(shape: tuple[int, ...], grain: str, entries: int = ENTRIES) -> list[tuple[int, int]]:
    """Return where a tensor is cut: the first and past-the-last entry of each piece.

    Args:
        shape: of the tensor.
        grain: what a piece may cut, see `Merge`.
        entries: about how many entries a piece has; more where a row or the tensor may not be cut.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if grain == "tensor":
        step = count
    elif grain == "row":
        columns = _columns(shape)
        step = max(entries // max(columns, 1), 1) * columns
    else:
        step = entries
    return [(start, min(start + step, count)) for start in range(0, count, max(step, 1))]


def merged_pieces(merge: Merge, shape: tuple[int, ...], read: Reader) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield the merged entries of a tensor, piece by piece: (start, stop, float32 [entries]).

    Args:
        merge: the method, bound to the tensor.
        shape: of the tensor.
        read: of the inputs; read once for every round and once to combine.
    """
    columns, places = _columns(shape), cuts(shape, merge.grain)
    for number in range(merge.rounds):
        seen = [merge.observe(number, Piece(start, read(start, stop), columns)) for start, stop in places]
        merge.conclude(number, seen)
    for start, stop in places:
        yield start, stop, merge.combine(Piece(start, read(start, stop), columns))


def merge_tensor(merge: Merge, shape: tuple[int, ...], read: Reader) -> np.ndarray:
    """Return the whole merged tensor, float32 [shape]."""
    result = np.empty(int(np.prod(shape, dtype=np.int64)), np.float32)
    for start, stop, values in merged_pieces(merge, shape, read):
        result[start:stop] = values
    return result.reshape(shape)


def _columns(shape: tuple[int, ...]) -> int:
    return int(shape[-1]) if shape else 1
