"""The search for codes under a full second moment, compiled by numba."""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int64, uint16, void

from steelyard.compiled import given, inner, kernel

_MIX = np.uint64(0x9E3779B97F4A7C15)


@inner
def _stamp(place: int, code: int) -> np.uint64:
    """Return 64 bits that stand for a code at a place; sets of codes are told apart by the sum of theirs."""
    value = np.uint64(place * 65536 + code + 1) * _MIX
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@inner
def _insert(
    loss: float, stamp: np.uint64, parent: int, code: int, count: int, losses: np.ndarray, stamps: np.ndarray,
    parents: np.ndarray, codes: np.ndarray,
) -> int:  # fmt: skip
    """Insert a candidate into a list sorted by loss, unless one with the same codes is there; return its length."""
    for i in range(count):
        if stamps[i] == stamp:
            return count
    place = count if count < losses.size else count - 1
    while place > 0 and losses[place - 1] > loss:
        losses[place], stamps[place] = losses[place - 1], stamps[place - 1]
        parents[place], codes[place] = parents[place - 1], codes[place - 1]
        place -= 1
    losses[place], stamps[place], parents[place], codes[place] = loss, stamp, parent, code
    return min(count + 1, losses.size)


@kernel(
    void(
        given(float64),
        given(float64),
        given(float32, 3),
        given(float32, 3),
        given(float32, 1),
        int64,
        uint16[:, :, ::1],
    )
)
def beam_search(
    image: np.ndarray,
    hessian: np.ndarray,
    words: np.ndarray,
    squares: np.ndarray,
    scale: np.ndarray,
    width: int,
    codes: np.ndarray,
) -> None:
    """Choose codes anew, one after the other, keeping the best few ways to have chosen so far; no row gets worse.

    With the residual r = w - q and y = H r, changing a codeword c of group J into u changes r^T H r by
    2 d^T y_J + d^T H_JJ d with d = scale (c - u).

    Source: Egiazarian et al. 2024, section 3.1 and equation 7.

    Args:
        image: [rows, in], H (w - q) under the codes given.
        hessian: [in, in], columns padded to whole groups with zeros.
        words: [codebooks, group, entries].
        squares: [groups, codebooks, entries], u^T H_JJ u.
        scale: [rows].
        width: of the beam.
        codes: [rows, groups, codebooks], changed in place.
    """
    rows, columns = image.shape
    books, group, entries = words.shape
    groups = codes.shape[1]
    held_codes = np.empty((2, width, groups * books), np.uint16)
    held_image = np.empty((2, width, columns))
    held_loss, held_stamp = np.empty((2, width)), np.empty((2, width), np.uint64)
    score, slope = np.empty(entries, np.float32), np.empty(group)
    losses, stamps = np.empty(width), np.empty(width, np.uint64)
    parents, chosen = np.empty(width, np.int64), np.empty(width, np.int64)
    step = np.empty(group)
    for r in range(rows):
        now, beams = 0, 1
        s = np.float64(scale[r])
        for place in range(groups * books):
            held_codes[0, 0, place] = codes[r, place // books, place % books]
        held_image[0, 0] = image[r]
        held_loss[0, 0], held_stamp[0, 0] = 0.0, np.uint64(0)
        for place in range(groups * books):
            J, m = place // books, place % books
            first = J * group
            count = 0
            for b in range(beams):
                old = held_codes[now, b, place]
                unchanged = 0.0
                for i in range(group):
                    inside = 0.0
                    for j in range(group):
                        inside += hessian[first + i, first + j] * words[m, j, old]
                    c = np.float64(words[m, i, old])
                    slope[i] = 2.0 * s * held_image[now, b, first + i] + 2.0 * s * s * inside
                    unchanged += c * (2.0 * s * held_image[now, b, first + i] + s * s * inside)
                square = np.float32(s * s)
                for k in range(entries):
                    score[k] = square * squares[J, m, k]
                for i in range(group):
                    along = np.float32(slope[i])
                    for k in range(entries):
                        score[k] -= along * words[m, i, k]
                # Losses are counted from those at the start; a code that stays costs exactly nothing.
                base = held_loss[now, b] + unchanged
                if width == 1:
                    least = score[0]
                    best = 0
                    for k in range(entries):
                        least = min(least, score[k])
                    for k in range(entries):
                        if score[k] == least:
                            best = k
                            break
                    change = unchanged + np.float64(least)
                    losses[0], parents[0], chosen[0], stamps[0] = change, 0, best, np.uint64(0)
                    if best == old or not change < 0.0:
                        losses[0], chosen[0] = 0.0, old
                    count = 1
                else:
                    lone = held_stamp[now, b] - _stamp(place, old)
                    count = _insert(
                        held_loss[now, b], held_stamp[now, b], b, old, count, losses, stamps, parents, chosen
                    )
                    for k in range(entries):
                        loss = base + np.float64(score[k])
                        if k != old and (count < width or loss < losses[count - 1]):
                            stamp = lone + _stamp(place, k)
                            count = _insert(loss, stamp, b, k, count, losses, stamps, parents, chosen)
            if width == 1:
                old, new = held_codes[now, 0, place], chosen[0]
                if new != old:
                    held_codes[now, 0, place] = new
                    for i in range(group):
                        change = s * (np.float64(words[m, i, old]) - np.float64(words[m, i, new]))
                        for j in range(columns):
                            held_image[now, 0, j] += change * hessian[first + i, j]
                continue
            for b in range(count):
                parent, new = parents[b], chosen[b]
                old = held_codes[now, parent, place]
                held_codes[1 - now, b] = held_codes[now, parent]
                held_codes[1 - now, b, place] = new
                held_loss[1 - now, b], held_stamp[1 - now, b] = losses[b], stamps[b]
                held_image[1 - now, b] = held_image[now, parent]
                if new != old:
                    for i in range(group):
                        step[i] = s * (np.float64(words[m, i, old]) - np.float64(words[m, i, new]))
                    for i in range(group):
                        change = step[i]
                        for j in range(columns):
                            held_image[1 - now, b, j] += change * hessian[first + i, j]
            now, beams = 1 - now, count
        for place in range(groups * books):
            codes[r, place // books, place % books] = held_codes[now, 0, place]
