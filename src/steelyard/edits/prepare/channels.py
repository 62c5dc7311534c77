"""QLLM's channel disassembly and assembly: strong channels split into several, similar ones joined into one."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np

from steelyard.edits.prepare.changes import Changes, Join
from steelyard.edits.prepare.llama import LlamaNetwork
from steelyard.edits.prepare.network import Network, Read
from steelyard.errors import UserError

Ranges = Callable[[str], np.ndarray]
"""Returns the largest |x| of every input of a linear map [in] by its weight's name."""

Moments = Callable[[str], np.ndarray]
"""Returns the mean of x x^T over the inputs of a linear map [in, in] by its weight's name."""


def disassemble(
    network: Network, read: Read, ranges: Ranges, extra: int, moments: Moments | None = None
) -> Changes:
    """Return the changes that split the strongest inner channels of each feed-forward into sub-channels.

    Channel x of T sub-channels becomes T channels x / T, each with the column of `down` that x had: the same sum.
    It is made by T copies of its rows of `gate` and `up`, those of `up` over T. T = ceil(max|x| / theta), with
    theta of each layer such that all of them gain `extra` channels: a model has one width for all its layers.

    Args:
        network: of the model.
        read: its tensors.
        ranges: of what enters `down`.
        extra: channels added to each layer.
        moments: of what enters `down`: then as many channels that were not split are joined to others, so that the
            width stays, and the function does not. The two of a pair are joined by the column of the one that is
            kept: w_i + w_j E[x_i x_j] / E[x_i x_i]. Pairs are those of the least loss in a bipartite matching.

    Returns:
        The changes. With `moments`, `exact` are those without the joining, which keep the function.

    Raises:
        UserError: for families without a feed-forward, or more channels than there are.

    Source: Liu et al. 2023, QLLM, arXiv 2310.08041, equations 3 and 5 and section 4.1; matching of Bolya et al.
        2022, arXiv 2210.09461. The paper splits and joins what enters any linear map while the model runs, and a
        joined channel is the mean of its two. Here all is folded into ordinary weights, which leaves the inner
        channels of the feed-forward, and cannot take the mean of what a product of two maps makes: one of the two
        is kept, and its column takes in the other's as well as it can.
    """
    if not isinstance(network, LlamaNetwork):
        raise UserError("channels are split between up and down of a feed-forward; this model has none")
    changes, split = Changes(network), Changes(network)
    for layer in range(network.layers):
        names = network.block(layer)
        largest = ranges(names["down"]).astype(np.float64)
        if not 1 <= extra < len(largest) // 4:
            raise UserError(f"extra channels are at least 1 and below a quarter of {len(largest)}, not {extra}")
        copies = sub_channels(largest, extra)
        kept, target, weight = np.arange(len(largest)), np.arange(len(largest)), np.ones(len(largest))
        _split(split, names, np.repeat(kept, copies), copies, kept, kept, weight)
        if moments is not None:
            free = np.flatnonzero(copies == 1)
            dropped, into, share = _pairs(read(names["down"]), moments(names["down"]), free, extra)
            kept = np.setdiff1d(kept, dropped)
            target[dropped], weight[dropped] = into, share
            _split(changes, names, np.repeat(kept, copies[kept]), copies, np.arange(len(largest)), target, weight)
    width = len(largest) + extra
    split.config["intermediate_size"] = width
    if moments is None:
        return split
    changes.exact = split
    return changes


def sub_channels(largest: np.ndarray, extra: int) -> np.ndarray:
    """Return how many sub-channels each channel gets, int64 [n], so that the greatest part is as small as can be.

    Args:
        largest: max|x| of each channel [n].
        extra: how many are added.
    """
    copies = np.ones(len(largest), np.int64)
    heap = [(-float(value), index) for index, value in enumerate(largest)]
    heapq.heapify(heap)
    for _ in range(extra):
        _, index = heapq.heappop(heap)
        copies[index] += 1
        heapq.heappush(heap, (-float(largest[index]) / int(copies[index]), index))
    return copies


def _split(
    changes: Changes,
    names: object,
    order: np.ndarray,
    copies: np.ndarray,
    taken: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
) -> None:
    """Add the changes of one layer.

    Args:
        changes: to add to.
        names: of the layer's weights.
        order: the old channel of each new one.
        copies: of each old channel.
        taken: old columns of `down`.
        target: old channel whose new ones each of them goes to.
        weight: and how much of it.
    """
    assert isinstance(names, dict)
    every = np.arange(len(order))
    changes.rows(names["gate"], Join(order, np.ones(len(order)), every, len(order)))
    changes.rows(names["up"], Join(order, 1.0 / copies[order], every, len(order)))
    places = {int(old): np.flatnonzero(order == old) for old in np.unique(order)}
    spots = [places[int(old)] for old in target]
    counts = [len(spot) for spot in spots]
    joined = Join(np.repeat(taken, counts), np.repeat(weight, counts), np.concatenate(spots), len(order))
    changes.of(names["down"]).columns.append(joined)


def _pairs(
    down: np.ndarray, moment: np.ndarray, free: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which channels are dropped, which ones take their columns in, and with what factor.

    Args:
        down: the weight that reads the channels [out, n].
        moment: of the channels [n, n].
        free: channels that may be joined.
        count: how many are to be dropped.
    """
    first, second = free[::2], free[1::2]
    if len(first) < count:
        raise UserError(f"{count} channels cannot be joined to others: only {len(free)} were not split")
    wide = moment.astype(np.float64)
    power = np.maximum(np.diag(wide), 1e-300)
    across = wide[np.ix_(first, second)]
    # What the least-squares multiple of the kept channel leaves of the dropped one, as its column weighs it.
    left = np.maximum(power[first][:, None] - across**2 / power[second], 0.0)
    loss = left * (down[:, first] ** 2).sum(axis=0)[:, None]
    best = loss.argmin(axis=1)
    order = np.argsort(loss[np.arange(len(first)), best], kind="stable")[:count]
    into = second[best[order]]
    return first[order], into, across[order, best[order]] / power[into]
