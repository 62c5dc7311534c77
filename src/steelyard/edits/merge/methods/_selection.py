"""Entries by rank without sorting: exact, in two passes over a tensor that is never held as a whole.

The bits of a float32 number that is not negative, read as an integer, stand in the number's order. The first pass
counts the upper 16 bits of every entry; where the wanted rank falls, one value of those 16 bits remains. The
second pass looks at the lower 16 bits of the entries that have it, and so finds the very number of that rank.
Entries equal to it rank by position: each piece says how many of them it holds, and the first pieces keep theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_NOTHING = 0xFFFFFFFF  # above the bits of every finite number


@dataclass
class Cut:
    """The line below the `count` largest entries.

    Attributes:
        count: how many entries lie above the line.
        threshold: bits of the smallest of them.
        whole: whether all entries equal to the threshold are above the line.
        ties: of each piece, by its start, how many of its entries equal to the threshold are above the line.
    """

    count: int
    threshold: int = _NOTHING
    whole: bool = True
    ties: dict[int, int] = field(default_factory=dict)
    upper: int = 0
    rest: int = 0

    def settle(self, table: np.ndarray) -> None:
        """Take the upper 16 bits from the histogram of the whole tensor, int64 [65536]."""
        from_top = np.cumsum(table[::-1])
        place = int(np.searchsorted(from_top, self.count))
        self.upper = 65535 - place
        self.rest = self.count - (int(from_top[place - 1]) if place else 0)

    def conclude(self, starts: Sequence[int], found: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """Take the lower 16 bits, and share out the ties, from what was found in each piece: values and counts."""
        table = np.zeros(65536, np.int64)
        for values, counts in found:
            table[values] += counts
        from_top = np.cumsum(table[::-1])
        place = int(np.searchsorted(from_top, self.rest))
        lower = 65535 - place
        self.threshold = self.upper << 16 | lower
        keep = self.rest - (int(from_top[place - 1]) if place else 0)
        self.whole = keep == int(table[lower]) or self.threshold == 0
        if self.whole:
            return
        for start, (values, counts) in zip(starts, found, strict=True):
            equal = int(counts[values == lower].sum())
            self.ties[start] = min(equal, keep)
            keep -= self.ties[start]


class Selection:
    """Cuts through several streams of numbers that run beside each other, found in two rounds.

    Args:
        size: entries of the tensor.
        counts: for each stream, how many of its largest entries lie above each of its cuts.
        exact: find the threshold also where all entries lie above the cut, and any threshold would do.
    """

    rounds = 2

    def __init__(self, size: int, counts: Sequence[Sequence[int]], exact: bool = False) -> None:
        self.cuts = [[Cut(min(max(count, 0), size)) for count in stream] for stream in counts]
        for stream in self.cuts:
            for cut in stream:
                if cut.count == size:
                    cut.threshold = 0
        most = size if exact else size - 1
        self._sought = [[cut for cut in stream if 0 < cut.count <= most] for stream in self.cuts]
        self._local = threading.local()
        self._tables: list[np.ndarray] = []
        self._lock = threading.Lock()

    def observe(self, round: int, start: int, keys: Sequence[np.ndarray]) -> Any:
        """Look at one piece of every stream, uint32 [entries] each."""
        from steelyard.edits.merge.methods._selection_kernels import gather, tally

        if round == 0:
            table = self._table()
            for stream, row in enumerate(keys):
                if self._sought[stream]:
                    tally(row, table[stream])
            return None
        found = []
        buffer = np.empty(max(row.size for row in keys), np.uint16)
        for cuts, row in zip(self._sought, keys, strict=True):
            for cut in cuts:
                count = gather(row, cut.upper, buffer)
                found.append(np.unique(buffer[:count], return_counts=True))
        return start, found

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        """Take in what was observed, in the order of the pieces."""
        if round == 0:
            for stream, cuts in enumerate(self._sought):
                table: np.ndarray = np.add.reduce([table[stream] for table in self._tables])
                for cut in cuts:
                    cut.settle(table)
            self._tables.clear()
            self._local = threading.local()
            return
        starts = [start for start, _ in observed]
        sought = [cut for cuts in self._sought for cut in cuts]
        for index, cut in enumerate(sought):
            cut.conclude(starts, [found[index] for _, found in observed])

    def _table(self) -> np.ndarray:
        """Return this thread's histograms, int64 [streams, 65536]: whole numbers add up the same in any order."""
        table: np.ndarray | None = getattr(self._local, "table", None)
        if table is None:
            table = self._local.table = np.zeros((len(self.cuts), 65536), np.int64)
            with self._lock:
                self._tables.append(table)
        return table


def keep_largest(values: np.ndarray, start: int, cut: Cut) -> None:
    """Set to zero the entries of a piece below a cut through their magnitudes; float32 [entries]."""
    from steelyard.edits.merge.methods._selection_kernels import keep_between, keep_from

    if cut.threshold == 0:
        return
    keys = magnitudes(values)
    if cut.whole:
        keep_from(values, keys, cut.threshold)
    else:
        keep_between(values, keys, cut.threshold, cut.ties[start], _NOTHING, 0)


def keep_middle(values: np.ndarray, start: int, low: Cut, high: Cut) -> None:
    """Set to zero the entries of a piece below one cut through their magnitudes or above another."""
    from steelyard.edits.merge.methods._selection_kernels import keep_between

    below = values.size if low.whole else low.ties[start]
    above = values.size if high.whole else high.ties[start]
    keep_between(values, magnitudes(values), low.threshold, below, high.threshold, above)


def keep_mask(values: np.ndarray, start: int, cut: Cut) -> np.ndarray:
    """Return which entries of a piece are above a cut through numbers that are not negative; bool [entries]."""
    marks = np.where(values == 0, np.float32(0), values)
    if cut.threshold == 0:
        return np.ones(values.shape, bool)
    keep_largest(marks, start, cut)
    mask: np.ndarray = marks != 0
    return mask


def magnitudes(values: np.ndarray) -> np.ndarray:
    """Return the keys of magnitudes: the bits of float32 numbers without their sign, uint32."""
    keys: np.ndarray = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    return keys


def ordered(values: np.ndarray) -> np.ndarray:
    """Return keys that stand in the order of float32 numbers of either sign, uint32."""
    bits = values.view(np.uint32)
    keys: np.ndarray = np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(0x80000000))
    return keys


def value_of(key: int) -> np.float32:
    """Return the number of a key from `ordered`."""
    bits = key & 0x7FFFFFFF if key >> 31 else ~key & 0xFFFFFFFF
    return np.float32(np.array(bits, np.uint32).view(np.float32))
