"""Weight matching: the order of one model's units in which its weights are nearest to another's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.edits.align.assignment import assign, assign_attention
from steelyard.edits.align.maps import Map, distance, identity, products
from steelyard.edits.align.symmetry import Attention, Read, Symmetry
from steelyard.progress import SILENT, Progress
from steelyard.seeds import generator

_PARTS = ("query", "key", "value", "attended")
_GAIN = 1e-9


@dataclass(frozen=True)
class Matched:
    """What a search found.

    Attributes:
        maps: the orders.
        sweeps: passes over all spaces; the last changed nothing unless the limit was reached.
        before: length of the difference between the models as they came.
        after: the same in the order that was found.
    """

    maps: dict[str, Map]
    sweeps: int
    before: float
    after: float


def match_weights(
    symmetry: Symmetry,
    read_a: Read,
    read_b: Read,
    *,
    sweeps: int = 50,
    seed: int = 0,
    start: dict[str, Map] | None = None,
    progress: Progress = SILENT,
) -> Matched:
    """Order the units of model B so that its weights are as near as possible to those of model A.

    Space after space, in a drawn order, the units are assigned by the inner products of all weights they have, the
    other spaces kept as they are, until a whole sweep gains nothing. Each step is an exact linear assignment (the
    nested one of `assign_attention` for heads), so the distance never grows; the result is a local optimum.

    Args:
        symmetry: of both models.
        read_a: tensors of A.
        read_b: tensors of B.
        sweeps: the most passes.
        seed: of the order in which spaces are visited.
        start: orders to begin with.
        progress: advanced by spaces.

    Source: Ainsworth et al. 2022, arXiv 2209.04836, section 3.2 and algorithm 1 (permutation coordinate descent),
        which starts from the models as they came; see `match_nearest` for a second start.
    """
    maps = dict(start or identity(symmetry))
    units = symmetry.from_the_input()
    before = distance(symmetry, identity(symmetry), read_a, read_b)
    done = 0
    progress.start("matching weights", sweeps * len(units))
    for sweep in range(sweeps):
        done = sweep + 1
        gained = False
        for place in generator(seed, f"weight matching {sweep}").permutation(len(units)):
            unit = units[place]
            if isinstance(unit, Attention):
                gained |= _attention_step(symmetry, maps, unit, read_a, read_b)
            else:
                gained |= _plain_step(symmetry, maps, unit, read_a, read_b)
            progress.advance(1)
        if not gained:
            break
    progress.finish()
    return Matched(maps, done, before, distance(symmetry, maps, read_a, read_b))


def match_nearest(
    symmetry: Symmetry, read_a: Read, read_b: Read, *, sweeps: int = 50, seed: int = 0, progress: Progress = SILENT
) -> Matched:
    """Return the nearer of what weight matching finds from two starts.

    One is the models as they came, the paper's. The other is a pass from the input to the output, in which units
    are known by the weights whose other side is matched already: the stream by the embeddings, a block's units by
    the stream. Trained embeddings say more of the stream than blocks do whose own units are not matched yet.

    Args: as `match_weights` has them.
    """
    found = [
        match_weights(symmetry, read_a, read_b, sweeps=sweeps, seed=seed, start=start, progress=progress)
        for start in (None, first_pass(symmetry, read_a, read_b))
    ]
    return min(found, key=lambda matched: matched.after)


def first_pass(symmetry: Symmetry, read_a: Read, read_b: Read) -> dict[str, Map]:
    """Return orders found from the input to the output, each by what is matched before it."""
    maps: dict[str, Map] = {}
    for unit in symmetry.from_the_input():
        if isinstance(unit, Attention):
            found = {part: products(symmetry, maps, unit.space(part), read_a, read_b) for part in _PARTS}
            maps |= assign_attention(unit, found)
        else:
            maps[unit] = assign(products(symmetry, maps, unit, read_a, read_b))
    return maps


def _plain_step(symmetry: Symmetry, maps: dict[str, Map], space: str, read_a: Read, read_b: Read) -> bool:
    found = products(symmetry, maps, space, read_a, read_b)
    order, places = assign(found), np.arange(len(found))
    gain = float(found[places, order].sum() - found[places, maps[space]].sum())
    if gain <= _GAIN * float(np.abs(found[places, maps[space]]).sum()):
        return False
    return _accept(symmetry, maps, {space: order}, _twice(symmetry, space), read_a, read_b)


def _attention_step(
    symmetry: Symmetry, maps: dict[str, Map], attention: Attention, read_a: Read, read_b: Read
) -> bool:
    found = {part: products(symmetry, maps, attention.space(part), read_a, read_b) for part in _PARTS}
    orders = assign_attention(attention, found, maps)
    gain, scale = 0.0, 0.0
    for part in _PARTS:
        space, places = attention.space(part), np.arange(len(found[part]))
        now = found[part][places, maps[space]]
        gain += float(found[part][places, orders[space]].sum() - now.sum())
        scale += float(np.abs(now).sum())
    if gain <= _GAIN * scale:
        return False
    maps.update(orders)
    return True


def _twice(symmetry: Symmetry, space: str) -> list[str]:
    """Return the tensors that have a space on both sides, where the sum of products is not what is gained."""
    return [name for name, spaces in symmetry.dims.items() if sum(space in names for names in spaces) > 1]


def _accept(
    symmetry: Symmetry,
    maps: dict[str, Map],
    orders: dict[str, Map],
    twice: list[str],
    read_a: Read,
    read_b: Read,
) -> bool:
    """Take over orders; where a tensor has the space twice, only if the models come nearer."""
    changed = {**maps, **orders}
    if twice:
        names = [name for space in orders for name, _ in symmetry.holders(space)]
        names = list(dict.fromkeys(names))
        old = distance(symmetry, maps, read_a, read_b, names)
        if distance(symmetry, changed, read_a, read_b, names) >= old * (1 - _GAIN):
            return False
    maps.update(orders)
    return True
