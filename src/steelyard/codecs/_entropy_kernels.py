"""The loops of the entropy coder, compiled by numba: four interleaved range coders with tables of probabilities.

A state x lies in [2**16, 2**32). A symbol with frequency f of 4096 that begins at c turns it into
(x // f) * 4096 + c + x % f; before that, 16 bits leave a state that would outgrow its range. Decoding runs the same
backwards, so the encoder takes the symbols from the last to the first.

Source: Duda 2013, arXiv 1311.2540, section 3 (range variant); interleaving as in Giesen 2014, arXiv 1402.3392.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int16, int64, uint8, uint16, void

from steelyard.compiled import given, inner, kernel

STATES = 4
"""Coders at work in turn: a processor overlaps what does not depend on each other."""


@inner
def _context(row: Any, column: Any, floor: int) -> Any:
    found = row + column - floor
    return found if found > 0 else 0


@kernel(void(given(int16), given(uint8, 1), given(uint8, 1), int64[:, ::1]))
def count(levels: np.ndarray, rows: np.ndarray, columns: np.ndarray, histogram: np.ndarray) -> None:
    """Add to `histogram` [contexts, magnitudes] how often each magnitude of [rows, columns] occurs."""
    for i in range(levels.shape[0]):
        for j in range(levels.shape[1]):
            histogram[rows[i] + columns[j], abs(levels[i, j])] += 1


@kernel(int64(given(int16), given(uint8, 1), given(uint8, 1), int64, given(int64), given(int64), uint16[::1]))
def encode(
    levels: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    floor: int,
    frequency: np.ndarray,
    begin: np.ndarray,
    words: np.ndarray,
) -> int:
    """Write the code of some rows to the end of `words` and return where it begins.

    Args:
        levels: int16 [rows, columns].
        rows: class of each row.
        columns: class of each column.
        floor: what is taken from the sum of both classes; the context is at least 0.
        frequency: int64 [contexts, symbols] of 4096; symbol s stands for level s - symbols // 2.
        begin: the sums of the frequencies before each symbol.
        words: of 16 bits, long enough for anything.
    """
    middle = frequency.shape[1] // 2
    states = np.full(STATES, 1 << 16, np.int64)
    place = words.size
    width = levels.shape[1]
    for k in range(levels.size - 1, -1, -1):
        i, j = k // width, k % width
        turn = j % STATES
        context = _context(np.int64(rows[i]), np.int64(columns[j]), floor)
        symbol = levels[i, j] + middle
        f = frequency[context, symbol]
        x = states[turn]
        if x >= f << 20:
            place -= 1
            words[place] = np.uint16(x & 0xFFFF)
            x >>= 16
        states[turn] = ((x // f) << 12) + x % f + begin[context, symbol]
    for s in range(STATES - 1, -1, -1):
        place -= 2
        words[place] = np.uint16(states[s] & 0xFFFF)
        words[place + 1] = np.uint16(states[s] >> 16)
    return place


@inner
def _longer(words: np.ndarray, count: int) -> np.ndarray:
    """Return words with as many zeros after them."""
    longer = np.zeros(words.size + count, np.uint16)
    longer[: words.size] = words
    return longer


@inner
def _step(x: Any, entry: Any, words: np.ndarray, place: int) -> tuple[Any, Any]:
    """Return a state after a symbol with its table's entry, and the place of the next word."""
    x = (entry & 8191) * (x >> 12) + ((entry >> 13) & 4095)
    # Without a branch: whether a word is needed is as good as random.
    short = np.int64(x < 1 << 16)
    x = x << (short << 4) | np.int64(words[place]) * short
    return x, place + short


@kernel(int64(given(uint16, 1), given(uint8, 1), given(uint8, 1), int64, given(int64), int64, int16[:, ::1]))
def decode(
    words: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    floor: int,
    table: np.ndarray,
    middle: int,
    levels: np.ndarray,
) -> int:
    """Undo `encode`; return the number of words it takes: more than there are if they end too early.

    Args:
        words: the code, and whatever follows it.
        rows: as for `encode`.
        columns: as there.
        floor: as there.
        table: int64 [contexts, 4096], for each place its symbol << 25 | (place - begin) << 13 | frequency.
        middle: the symbol of level 0.
        levels: int16 [rows, columns], written.
    """
    if words.size < 2 * STATES:
        return words.size + 1
    x0 = np.int64(words[0]) | np.int64(words[1]) << 16
    x1 = np.int64(words[2]) | np.int64(words[3]) << 16
    x2 = np.int64(words[4]) | np.int64(words[5]) << 16
    x3 = np.int64(words[6]) | np.int64(words[7]) << 16
    place = 2 * STATES
    held = _longer(words, 0)
    width = levels.shape[1]
    whole = width - width % STATES
    for i in range(levels.shape[0]):
        row = np.int64(rows[i])
        # A row takes at most a word for each weight: one test for all of them, but near the end.
        if place + width > held.size:
            held = _longer(held, width)
        for j in range(0, whole, STATES):
            e0 = table[_context(row, np.int64(columns[j]), floor), x0 & 4095]
            e1 = table[_context(row, np.int64(columns[j + 1]), floor), x1 & 4095]
            e2 = table[_context(row, np.int64(columns[j + 2]), floor), x2 & 4095]
            e3 = table[_context(row, np.int64(columns[j + 3]), floor), x3 & 4095]
            x0, place = _step(x0, e0, held, place)
            x1, place = _step(x1, e1, held, place)
            x2, place = _step(x2, e2, held, place)
            x3, place = _step(x3, e3, held, place)
            levels[i, j] = (e0 >> 25) - middle
            levels[i, j + 1] = (e1 >> 25) - middle
            levels[i, j + 2] = (e2 >> 25) - middle
            levels[i, j + 3] = (e3 >> 25) - middle
        for j in range(whole, width):
            turn = j - whole
            x = x0 if turn == 0 else x1 if turn == 1 else x2
            e = table[_context(row, np.int64(columns[j]), floor), x & 4095]
            x, place = _step(x, e, held, place)
            levels[i, j] = (e >> 25) - middle
            if turn == 0:
                x0 = x
            elif turn == 1:
                x1 = x
            else:
                x2 = x
    return place
