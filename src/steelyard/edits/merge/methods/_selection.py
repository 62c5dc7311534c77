"""Entries by rank without sorting: exact, in two passes over a tensor that is never held as a whole.

The bits of a float32 number that is not negative, read as an integer, stand in the number's order. The first pass
counts the upper 16 bits of every entry; where the wanted rank falls, one value of those 16 bits remains. The
second pass looks at the lower 16 bits of the entries that have it, and so finds the very number of that rank.
Entries equal to it rank by position: each piece says how many of them it holds, and the first pieces keep theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NO_CEILING = 0x7F800000
"""The key of infinity, above those of all finite magnitudes."""


_MANY = 1024  # values found in a piece, from which on each is kept once with its count

Found = tuple[np.ndarray, np.ndarray | None]
"""Lower 16 bits found in a piece, uint16, and how often each if they stand there once."""


@dataclass
class Cut:
    """The line below the `count` largest entries.

    Attributes:
        count: how many entries lie above the line.
        threshold: bits of the smallest of them.
        later: the piece from whose start on entries equal to the threshold lie below the line, None if none does.
        split: the piece in which only the first of such entries lie above the line, by its start, and how many.
    """

    count: int
    threshold: int = NO_CEILING
    later: int | None = None
    split: tuple[int, int] | None = None
    upper: int = 0
    rest: int = 0

    def settle(self, table: np.ndarray) -> None:
        """Take the upper 16 bits from the histogram of the whole tensor, int64 [65536]."""
        from_top = np.cumsum(table[::-1])
        place = int(np.searchsorted(from_top, self.count))
        self.upper = 65535 - place
        self.rest = self.count - (int(from_top[place - 1]) if place else 0)

    def conclude(self, starts: Sequence[int], found: Sequence[Found]) -> None:
        """Take the lower 16 bits, and share out the ties, from what was found in each piece."""
        plain = [values for values, counts in found if counts is None]
        table = np.bincount(np.concatenate(plain), minlength=65536) if plain else np.zeros(65536, np.int64)
        for values, counts in found:
            if counts is not None:
                table[values] += counts
        from_top = np.cumsum(table[::-1])
        place = int(np.searchsorted(from_top, self.rest))
        lower = 65535 - place
        self.threshold = self.upper << 16 | lower
        keep = self.rest - (int(from_top[place - 1]) if place else 0)
        if keep == int(table[lower]):
            return
        for start, (values, counts) in zip(starts, found, strict=True):
            equal = int(np.count_nonzero(values == lower) if counts is None else counts[values == lower].sum())
            if equal > keep:
                self.later = start
                self.split = (start, keep) if keep else None
                return
            keep -= equal

    def floor(self, start: int) -> int:
        """Return the smallest key above the line in a piece that is not split."""
        return self.threshold + (self.later is not None and start >= self.later)


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
            return self._count(lambda stream, table: tally(keys[stream], table))
        return start, self._find(keys[0].size, lambda stream, upper, found: gather(keys[stream], upper, found))

    def observe_differences(self, round: int, start: int, rows: Sequence[np.ndarray], base: np.ndarray) -> Any:
        """Look at one piece of every stream, the magnitudes of rows less the base; float32 [entries] each."""
        from steelyard.edits.merge.methods._selection_kernels import gather_differences, tally_differences

        if round == 0:
            return self._count(lambda stream, table: tally_differences(rows[stream], base, table))
        return start, self._find(
            base.size, lambda stream, upper, found: gather_differences(rows[stream], base, upper, found)
        )

    def _count(self, tally: Callable[[int, np.ndarray], None]) -> None:
        table = self._table()
        for stream, cuts in enumerate(self._sought):
            if cuts:
                tally(stream, table[stream])

    def _find(self, entries: int, gather: Callable[[int, int, np.ndarray], int]) -> list[Found]:
        """Return what is found for every cut."""
        buffer = np.empty(entries, np.uint16)
        found: list[Found] = []
        for stream, cuts in enumerate(self._sought):
            for cut in cuts:
                values = buffer[: gather(stream, cut.upper, buffer)]
                many = values.size > _MANY
                found.append(np.unique(values, return_counts=True) if many else (values.copy(), None))
        return found

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


def keep_ranks(values: np.ndarray, start: int, low: Cut, high: Cut) -> None:
    """Set to zero the entries of a piece below one cut through their magnitudes, or above another."""
    keep_keys(values, magnitudes(values), start, low, high)


def keep_keys(values: np.ndarray, keys: np.ndarray, start: int, low: Cut, high: Cut | None = None) -> None:
    """Set to zero the entries of a piece whose keys lie below one cut, or above another.

    Args:
        values: float32 [entries], overwritten.
        keys: uint32 [entries].
        start: of the piece.
        low: the lower cut.
        high: the upper cut; None for none.
    """
    from steelyard.edits.merge.methods._selection_kernels import keep_between, part_equal

    few = low.split[1] if low.split is not None and low.split[0] == start else None
    many = high.split[1] if high is not None and high.split is not None and high.split[0] == start else None
    floor = low.floor(start) if few is None else low.threshold
    ceiling = NO_CEILING
    if high is not None:
        ceiling = high.floor(start) if many is None else high.threshold + 1
    keep_between(values, keys, floor, ceiling)
    if few is not None:
        part_equal(values, keys, low.threshold, few, True)
    if high is not None and many is not None:
        part_equal(values, keys, high.threshold, many, False)


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
