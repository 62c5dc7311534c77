"""The stream of entropy-coded integers: its tables, and the codes of runs of rows. See docs/formats/entropy.md."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.errors import UserError
from steelyard.parallel import map_threads

RAW, CODED = 0, 1

TOTAL = 4096
"""Sum of the frequencies of a table."""

CLASSES = 16
"""Classes of rows, and of columns; a class up is a mean magnitude larger by the root of two."""

_RUN = 16384
"""Weights from which on rows are a run of their own, which can be decoded apart."""

_FLOORS = (30, 28, 26, 24, 21, 18, 14, 8, 0)
"""Contexts tried: 31 less these."""


@dataclass(frozen=True)
class Tables:
    """What a stream says before its codes.

    Attributes:
        floor: see `_entropy_kernels.encode`.
        rows: class of each row, uint8.
        columns: class of each column, uint8.
        frequency: int64 [contexts, symbols] of 4096.
    """

    floor: int
    rows: np.ndarray
    columns: np.ndarray
    frequency: np.ndarray

    @property
    def begin(self) -> np.ndarray:
        """The sums of the frequencies before each symbol."""
        before: np.ndarray = np.cumsum(self.frequency, axis=1) - self.frequency
        return before

    def places(self) -> np.ndarray:
        """Return what `_entropy_kernels.decode` looks up, int64 [contexts, 4096]."""
        entries = []
        for line, begin in zip(self.frequency, self.begin, strict=True):
            symbol = np.repeat(np.arange(len(line)), line)
            entries.append(symbol << 25 | (np.arange(TOTAL) - begin[symbol]) << 13 | line[symbol])
        return np.stack(entries)

    def pack(self) -> bytes:
        """Return the bytes of the tables."""
        contexts, symbols = self.frequency.shape
        pieces = [bytes([contexts, self.floor])]
        if contexts > 1:
            pieces += [_nibbles(self.rows).tobytes(), _nibbles(self.columns).tobytes()]
        for line in self.frequency[:, symbols // 2 :]:
            top = int(np.flatnonzero(line)[-1])
            pieces.append(np.array([top, *line[: top + 1]], "<u2").tobytes())
        return b"".join(pieces)


def encode(levels: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Return the stream of integers, uint8; `fallback`, their plain bytes, where that is no longer.

    Args:
        levels: int16 [rows, columns], from -255 to 255.
        fallback: uint8.
    """
    from steelyard.codecs import _entropy_kernels

    levels = np.ascontiguousarray(levels, np.int16)
    tables = _tables(levels)
    begin = tables.begin

    def run(bounds: tuple[int, int]) -> np.ndarray:
        some = slice(*bounds)
        words = np.empty(levels[some].size + 2 * _entropy_kernels.STATES, np.uint16)
        start = _entropy_kernels.encode(
            levels[some], tables.rows[some], tables.columns, tables.floor, tables.frequency, begin, words
        )
        return words[start:]

    runs = map_threads(run, _runs(*levels.shape))
    ends = np.cumsum([0, *map(len, runs)]).astype("<u4")
    head = bytes([CODED]) + tables.pack() + ends.tobytes()
    coded = np.frombuffer(head + np.concatenate(runs).astype("<u2").tobytes(), np.uint8)
    if len(coded) <= len(fallback):
        return coded
    return np.concatenate([np.array([RAW], np.uint8), fallback])


def raw(data: np.ndarray) -> np.ndarray | None:
    """Return the plain bytes that a stream holds; None if it is coded."""
    return data[1:].copy() if data[0] == RAW else None


def decode(data: np.ndarray, rows: int, columns: int, wanted: np.ndarray | None = None) -> np.ndarray:
    """Return the integers of a coded stream, int16 [rows, columns].

    Args:
        data: the stream, and what follows it.
        rows: of the matrix.
        columns: of the matrix.
        wanted: rows to decode, with those of their runs; the others are left undefined.

    Raises:
        UserError: if the stream is not one of such a matrix.
    """
    from steelyard.codecs import _entropy_kernels

    tables, words, ends = _open(data, rows, columns)
    table = tables.places()
    middle = tables.frequency.shape[1] // 2
    levels = np.empty((rows, columns), np.int16)

    def run(item: tuple[int, tuple[int, int]]) -> bool:
        k, bounds = item
        some = slice(*bounds)
        read = _entropy_kernels.decode(
            words[ends[k] : ends[k + 1]],
            tables.rows[some],
            tables.columns,
            tables.floor,
            table,
            middle,
            levels[some],
        )
        return bool(read == ends[k + 1] - ends[k])

    runs = list(enumerate(_runs(rows, columns)))
    if wanted is not None:
        step = runs[0][1][1]
        runs = [runs[int(k)] for k in np.unique(wanted // step)]
    if not all(map_threads(run, runs)):
        raise UserError("entropy-coded integers end too early or too late; the folder is damaged")
    return levels


def _open(data: np.ndarray, rows: int, columns: int) -> tuple[Tables, np.ndarray, np.ndarray]:
    """Return the tables, the words of all runs, and where each run begins and the last one ends."""
    try:
        if data[0] != CODED:
            raise ValueError
        place = 3
        contexts, floor = int(data[1]), int(data[2])
        classes = [np.zeros(rows, np.uint8), np.zeros(columns, np.uint8)]
        if contexts > 1:
            for k, size in enumerate((rows, columns)):
                width = (size + 1) // 2
                packed = data[place : place + width]
                classes[k] = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[:size]
                place += width
        lines = []
        for _ in range(contexts):
            top = int(data[place]) | int(data[place + 1]) << 8
            lines.append(np.frombuffer(data[place + 2 : place + 2 * top + 4].tobytes(), "<u2").astype(np.int64))
            place += 2 * top + 4
        widest = max(map(len, lines))
        frequency = np.zeros((contexts, 2 * widest - 1), np.int64)
        for line, half in zip(frequency, lines, strict=True):
            line[widest - 1 : widest - 1 + len(half)] = half
            line[widest - len(half) : widest] = half[::-1]
        count = len(_runs(rows, columns)) + 1
        ends = np.frombuffer(data[place : place + 4 * count].tobytes(), "<u4").astype(np.int64)
        place += 4 * count
        words = np.frombuffer(data[place : place + 2 * int(ends[-1])].tobytes(), "<u2")
        highest = int(classes[0].max()) + int(classes[1].max()) - floor
        good = (frequency.sum(axis=1) == TOTAL).all() and highest < contexts and (np.diff(ends) >= 0).all()
        if not good or len(ends) != count or len(words) != ends[-1]:
            raise ValueError
    except (ValueError, IndexError):
        raise UserError("entropy-coded integers have damaged tables; write or download the folder again") from None
    return Tables(floor, np.ascontiguousarray(classes[0]), np.ascontiguousarray(classes[1]), frequency), words, ends


def _runs(rows: int, columns: int) -> list[tuple[int, int]]:
    step = -(-_RUN // columns)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def _nibbles(classes: np.ndarray) -> np.ndarray:
    even = np.append(classes, np.zeros(len(classes) % 2, np.uint8))
    result: np.ndarray = even[0::2] | even[1::2] << 4
    return result


def _tables(levels: np.ndarray) -> Tables:
    """Return the tables that take the fewest bytes together with what they code."""
    from steelyard.codecs import _entropy_kernels

    rows, columns = (_classes(levels, axis) for axis in (1, 0))
    histogram = np.zeros((2 * CLASSES - 1, int(np.abs(levels).max()) + 1), np.int64)
    _entropy_kernels.count(levels, rows, columns, histogram)
    best: tuple[float, Tables] | None = None
    for floor in _FLOORS:
        merged = histogram[floor:].copy()
        merged[0] += histogram[:floor].sum(axis=0)
        halves = np.stack([_frequencies(line) for line in merged])
        bits = np.where(merged > 0, np.log2(TOTAL / np.maximum(halves, 1)), 0.0)
        frequency = np.concatenate([halves[:, :0:-1], halves], axis=1)
        found = Tables(floor, rows, columns, frequency)
        cost = 8 * len(found.pack()) + float((merged * bits).sum())
        if best is None or cost < best[0]:
            best = cost, found
    assert best is not None
    return best[1]


def _classes(levels: np.ndarray, axis: int) -> np.ndarray:
    """Return the class of each line across an axis by its mean magnitude, the largest in the highest class."""
    size = np.abs(levels).mean(axis=axis, dtype=np.float64)
    largest = max(float(size.max()), 1e-9)
    below = np.rint(2.0 * np.log2(np.maximum(size, 1e-9) / largest))
    result: np.ndarray = np.maximum(below + CLASSES - 1, 0).astype(np.uint8)
    return result


def _frequencies(counts: np.ndarray) -> np.ndarray:
    """Return how often of 4096 each magnitude is taken to occur, for either sign: f_0 + 2 sum(f_k) = 4096."""
    total = int(counts.sum())
    result = np.zeros(len(counts), np.int64)
    if total == 0:
        result[0] = TOTAL
        return result
    # What occurs at all needs a place; zero, which makes up the rest, always has one.
    wanted = counts[1:] * (TOTAL / 2 / total)
    result[1:] = np.where(counts[1:] > 0, np.maximum(np.rint(wanted), 1), 0).astype(np.int64)
    while (rest := TOTAL - 2 * int(result[1:].sum())) < 2:
        # Rounding up many rare ones has used up the places: the most frequent give some back.
        result[1 + int(np.argmax(result[1:]))] -= max(1, (2 - rest) // 16)
    result[0] = rest
    return result
