"""Which unit belongs to which: linear assignment, and the nested one of heads, their groups and their channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.edits.align.maps import Map, attention_maps
from steelyard.edits.align.symmetry import Attention


def assign(products: np.ndarray) -> np.ndarray:
    """Return the order of the other model's units, int64 [n], of which the sum of products is greatest."""
    from scipy.optimize import linear_sum_assignment

    chosen: np.ndarray = linear_sum_assignment(products, maximize=True)[1]
    return chosen


@dataclass
class _Pair:
    """A key head of each model with the best order of what belongs to it."""

    score: float
    inner: np.ndarray
    keys: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class _Blocks:
    """Products cut by heads: [heads, channels, other heads, other channels]."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    attended: np.ndarray


def assign_attention(
    attention: Attention,
    products: dict[str, np.ndarray],
    start: dict[str, Map] | None = None,
) -> dict[str, Map]:
    """Return orders of an attention's heads and channels that have a great sum of products.

    For every two key heads the query heads that read them are assigned to each other, and the channels, in turns
    until nothing is gained; then the key heads are assigned by what each pair can gain. Each turn is exact, so the
    sum never falls below that of the start.

    Args:
        attention: its sizes.
        products: of query, key, value and attended units, float64 [units, units].
        start: orders to do no worse than.
    """
    size, heads, kv_heads = attention.channels, attention.heads, attention.kv_heads
    blocks = _Blocks(
        *(
            products[part].reshape(count, size, count, size)
            for part, count in (("query", heads), ("key", kv_heads), ("value", kv_heads), ("attended", heads))
        )
    )
    known = {} if start is None else _pairs(attention, start)
    pairs = [
        [_best_pair(attention, blocks, ours, theirs, known.get((ours, theirs))) for theirs in range(kv_heads)]
        for ours in range(kv_heads)
    ]
    kv_from = assign(np.array([[pair.score for pair in row] for row in pairs]))
    chosen = [pairs[ours][theirs] for ours, theirs in enumerate(kv_from)]
    return attention_maps(
        attention,
        kv_from,
        np.array([pair.inner for pair in chosen]),
        np.array([pair.keys for pair in chosen]),
        np.array([pair.values for pair in chosen]),
    )


def _best_pair(attention: Attention, blocks: _Blocks, ours: int, theirs: int, known: _Pair | None) -> _Pair:
    best = _climb(attention, blocks, ours, theirs, None)
    if known is not None:
        other = _climb(attention, blocks, ours, theirs, known)
        best = other if other.score >= best.score else best
    return best


def _climb(attention: Attention, blocks: _Blocks, ours: int, theirs: int, start: _Pair | None) -> _Pair:
    """Return a pair whose query heads and channels are assigned in turns."""
    size, repeat = attention.channels, attention.repeat
    mine = slice(ours * repeat, (ours + 1) * repeat)
    other = slice(theirs * repeat, (theirs + 1) * repeat)
    query, attended = blocks.query[mine, :, other, :], blocks.attended[mine, :, other, :]
    key, value = blocks.key[ours, :, theirs, :], blocks.value[ours, :, theirs, :]
    places = np.arange(size)
    if start is None:
        keys = assign(key) if attention.keys_free else places
        values = assign(value)
    else:
        keys, values = start.keys, start.values
    score = -np.inf
    while True:
        by_head = query[:, places, :, keys].sum(axis=0) + attended[:, places, :, values].sum(axis=0)
        inner = assign(by_head)
        read = np.arange(repeat)
        if attention.keys_free:
            keys = assign(key + query[read, :, inner, :].sum(axis=0))
        values = assign(value + attended[read, :, inner, :].sum(axis=0))
        found = (
            key[places, keys].sum()
            + value[places, values].sum()
            + sum(
                query[i, places, j, keys].sum() + attended[i, places, j, values].sum() for i, j in enumerate(inner)
            )
        )
        if found <= score + 1e-12 * abs(score):
            return _Pair(float(found), inner, keys, values)
        score = float(found)


def _pairs(attention: Attention, maps: dict[str, Map]) -> dict[tuple[int, int], _Pair]:
    """Return what orders say of each pair of key heads they join."""
    size, repeat = attention.channels, attention.repeat
    keys = maps[attention.space("key")].reshape(-1, size)
    values = maps[attention.space("value")].reshape(-1, size)
    heads = maps[attention.space("query")].reshape(-1, repeat, size)[:, :, 0] // size
    found = {}
    for ours in range(attention.kv_heads):
        theirs = int(keys[ours, 0]) // size
        found[ours, theirs] = _Pair(
            0.0, heads[ours] - theirs * repeat, keys[ours] - theirs * size, values[ours] - theirs * size
        )
    return found
