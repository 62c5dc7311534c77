"""Scales that move from channels hard to round into the weights before them: smoothing, AWQ, equalization."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from steelyard.codecs import IntegerCodec
from steelyard.edits.prepare.changes import Changes, gather, spread
from steelyard.edits.prepare.network import Network, Pair, Read
from steelyard.edits.quantize.error import error
from steelyard.edits.quantize.rtn import RtnOptions, round_to_nearest
from steelyard.edits.quantize.statistics import Statistics

# Scales beyond these say that a channel is dead, not that it is hard to round.
_LEAST, _MOST = 1e-4, 1e4

Known = Callable[[str], Statistics]
"""Returns what is known about the inputs of a linear map by its weight's name."""


def equalize(network: Network, read: Read) -> Changes:
    """Return the changes after which each channel between two linear maps has the same range on both sides.

    With r1 the largest weight that writes a channel and r2 the largest that reads it, the scale sqrt(r1 / r2)
    leaves both at sqrt(r1 r2). In llamas those are the channels from values to the output of attention, and from
    `up` to `down`: the gate that multiplies them does not mind. In Mamba they are the channels between the two maps
    that make the time steps.

    Source: Nagel et al. 2019, arXiv 1906.04721, equations 8 to 11. No data is needed.
    """
    changes = Changes(network)
    for pair in network.pairs(norms=False):
        written = np.abs(pair.written(read(pair.writer))).max(axis=1)
        arriving = _largest_read(pair, read)
        changes.move_scale(pair, _bounded(np.sqrt(_above_zero(written) / _above_zero(arriving))))
    return changes


def smooth(network: Network, read: Read, ranges: Callable[[str], np.ndarray | None], alpha: float = 0.5) -> Changes:
    """Return the changes that share the difficulty of each channel between activations and weights.

    Args:
        network: of the model.
        read: its tensors.
        ranges: largest |x| of every input of a linear map [in], by its weight's name; None where that is not known.
        alpha: how much moves into the weights: scale = max|x|^alpha / max|w|^(1 - alpha).

    Source: Xiao et al. 2022, SmoothQuant, arXiv 2211.10438, equation 4. The paper stops at the channels behind
        norms; those between two linear maps are smoothed here as well.
    """
    changes = Changes(network)
    for pair in network.pairs():
        found = ranges(pair.readers[0])
        if found is None:
            continue
        seen = gather(pair, found)
        weights = _largest_read(pair, read)
        scale = _above_zero(seen) ** alpha / _above_zero(weights) ** (1.0 - alpha)
        changes.move_scale(pair, _bounded(scale))
    return changes


def activation_aware(network: Network, read: Read, known: Known, codec: IntegerCodec, steps: int = 20) -> Changes:
    """Return the changes under which rounding to nearest loses the least.

    For every pair the scale is the root mean square of each channel's inputs to a power between 0 and 1; the power
    is searched, and none is taken where it does not pay. The loss is 1/2 tr(E H E^T) over all readers: the error of
    their outputs on the calibrated inputs. A power of 0 is no change.

    Args:
        network: of the model.
        read: its tensors.
        known: second moments of inputs.
        codec: what the readers will be rounded to.
        steps: powers tried, k / steps for k below it.

    Source: Lin et al. 2023, AWQ, arXiv 2306.00978, equations 4 and 5. The paper's search for clipped ranges is the
        scale search that every rounding here has.
    """
    changes = Changes(network)
    for pair in network.pairs():
        moment = known(pair.readers[0])
        power = gather(pair, moment.importance(read(pair.readers[0]).shape[1]), np.mean)
        weights = [read(reader) for reader in pair.readers]
        best, chosen = np.inf, None
        for step in range(steps):
            scale = _bounded(np.sqrt(_above_zero(power)) ** (step / steps))
            lost = _loss(pair, weights, scale, moment.second_moment, codec)
            if lost < best:
                best, chosen = lost, None if step == 0 else scale
        if chosen is not None:
            changes.move_scale(pair, chosen)
    return changes


def _loss(
    pair: Pair, weights: list[np.ndarray], scale: np.ndarray, moment: np.ndarray | None, codec: IntegerCodec
) -> float:
    """Return the error of a pair's readers rounded under a scale, measured where they are read."""
    wide = spread(pair, scale)
    scaled = None if moment is None else (moment.diagonal() if moment.ndim == 2 else moment) / wide**2
    total = 0.0
    for weight in weights:
        rounded = round_to_nearest(weight * wide, codec, Statistics(scaled), RtnOptions())
        total += error(weight, rounded.decode().astype(np.float64) / wide, moment)
    return total


def _largest_read(pair: Pair, read: Read) -> np.ndarray:
    """Return the largest |w| that reads each channel."""
    largest = np.max([np.abs(read(reader)).max(axis=0) for reader in pair.readers], axis=0)
    return gather(pair, largest)


def _above_zero(values: np.ndarray) -> np.ndarray:
    """Return values with those that are next to nothing beside the largest raised to that."""
    floor = max(float(values.max()) * 1e-6, 1e-30)
    raised: np.ndarray = np.maximum(values, floor)
    return raised


def _bounded(scale: np.ndarray) -> np.ndarray:
    """Return scales around a geometric middle of 1, so that the pair as a whole keeps its size."""
    middle = np.sqrt(float(scale.max()) * float(scale.min()))
    bounded: np.ndarray = np.clip(scale / middle, _LEAST, _MOST)
    return bounded
