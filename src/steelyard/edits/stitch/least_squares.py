"""The linear map from the states of one model to those of another on the same text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steelyard.edits.align.moments import Moments
from steelyard.edits.stitch.parents import Parents
from steelyard.edits.stitch.texts import model_of
from steelyard.errors import UserError
from steelyard.formats.native.composition import Joint
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    from steelyard.measure.windows import TokenSet

# Directions of the input whose power is below this share of the greatest hold nothing but rounding.
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Fitted:
    """One stitch.

    Attributes:
        weight: float64 [second, first].
        bias: float64 [second].
        missed: of the power of the second model's states about their mean, the share that the map misses.
    """

    weight: np.ndarray
    bias: np.ndarray
    missed: float


def solve(moments: Moments) -> Fitted:
    """Return the map W x + b that comes nearest to y in the mean square; of several the smallest W.

    Args:
        moments: of x, the first model's states, and y, the second's.

    Source: Pan et al. 2023, arXiv 2302.06586, where a stitch begins as the pseudoinverse of one model's activations
        times the other's; the bias as in the published code. Here from moments, so that memory does not grow with
        the text.
    """
    count = moments.tokens
    means = moments.mean_first / count, moments.mean_second / count
    spread = moments.first / count - np.outer(means[0], means[0])
    cross = moments.cross / count - np.outer(means[0], means[1])
    values, directions = np.linalg.eigh((spread + spread.T) / 2)
    kept = values > _SMALLEST * max(float(values[-1]), 0.0)
    inverse = (directions[:, kept] / values[kept]) @ directions[:, kept].T
    weight = (inverse @ cross).T
    power = float(np.trace(moments.second)) / count - float(means[1] @ means[1])
    caught = float(np.einsum("ij,ji->", weight, cross))
    missed = max(1 - caught / power, 0.0) if power > 0 else 0.0
    return Fitted(weight, means[1] - weight @ means[0], missed)


def fit(parents: Parents, joints: Sequence[Joint], data: TokenSet, progress: Progress = SILENT) -> list[Fitted]:
    """Return the map of every joint, fitted on both models' states at the same tokens.

    Both models run block by block, so that memory holds one block; states wait in memory as far as they fit, the
    others on the disk.

    Args:
        parents: the models.
        joints: (i, j): from the first's states after i blocks to those that enter block j of the second.
        data: windows of text.
        progress: advanced by blocks and batches.

    Raises:
        UserError: if there are no more tokens than channels, which determine no map.
    """
    from steelyard.measure.activations import ActivationStore
    from steelyard.measure.runner import BlockRunner

    width = parents.first.spec.config["hidden_size"]
    if data.tokens <= width:
        raise UserError(
            f"{data.tokens} tokens determine no map from {width} channels; give more with --sequences or --data"
        )
    batches = data.batches(2048)
    runners = [BlockRunner(model_of(parent)) for parent in parents]
    found: list[Moments | None] = [None] * len(joints)
    with ActivationStore() as first, ActivationStore() as second:
        stores = (first, second)
        for runner, store in zip(runners, stores, strict=True):
            runner.forward(batches, store, progress, keep=True, label=f"running {runner.model.location}")
        for number, batch in enumerate(batches):
            for place, joint in enumerate(joints):
                x, y = (
                    store.get(number if blocks == runner.depth else (blocks, number)).numpy()[batch.valid]
                    for store, runner, blocks in zip(stores, runners, joint, strict=True)
                )
                sums, known = Moments.of(x, y), found[place]
                if known is None:
                    found[place] = sums
                else:
                    known.add(sums)
    return [solve(moments) for moments in found if moments is not None]
