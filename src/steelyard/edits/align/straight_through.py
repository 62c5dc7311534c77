"""Matching by a loss: the order under which the mean of both models does best, by straight-through steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.edits.align.activations import windows
from steelyard.edits.align.maps import Map, mapped
from steelyard.edits.align.opened import Two
from steelyard.edits.align.options import AlignOptions
from steelyard.edits.align.weights import match_nearest, match_weights
from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch

    from steelyard.measure.skeleton import Skeleton
    from steelyard.measure.windows import Batch

_BATCH_TOKENS = 4096


def match_straight_through(two: Two, options: AlignOptions, progress: Progress = SILENT) -> dict[str, Map]:
    """Order the second model's units so that the mean of both models has a small loss.

    Weights like the first model's are trained; in every step the second model is ordered to match them, the loss of
    the mean of the first model and the ordered second is taken on all windows, and its gradient is applied to the
    trained weights as if they had been in the mean themselves. The order with the least loss is kept. The whole
    model is held in memory, several times.

    Args:
        two: the models, of one size.
        options: the text, steps and learning rate (of Adam).
        progress: advanced by steps.

    Raises:
        UserError: if the models have no loss, or there is no text.

    Source: Ainsworth et al. 2022, arXiv 2209.04836, section 3.3 and algorithm 3.
    """
    import torch

    from steelyard.measure.model import open_model
    from steelyard.measure.skeleton import Skeleton

    if two.first.spec.task == "encoder":
        raise UserError(f"{two.first.location} is an encoder and has no loss to match by; match activations")
    data = windows(two, options.data, options.sequences, options.sequence_length, options.seed)
    batches = data.batches(_BATCH_TOKENS)
    skeleton = Skeleton(open_model(two.first.checkpoint.location, two.first.checkpoint))
    first = {name: torch.from_numpy(two.read_first(name)) for name in two.symmetry.dims}
    trained = {name: tensor.clone().requires_grad_(True) for name, tensor in first.items()}
    adam = torch.optim.Adam(list(trained.values()), lr=options.learning_rate)
    maps = match_nearest(
        two.symmetry, two.read_first, two.read_second, sweeps=options.sweeps, seed=options.seed
    ).maps
    best, least = maps, np.inf
    progress.start("matching by the loss", options.steps, "steps")
    with _whole(skeleton, two):
        for step in range(options.steps):
            second = {n: torch.from_numpy(np.ascontiguousarray(_turned(two, maps, n))) for n in first}
            mean = {n: ((first[n] + second[n]) / 2).requires_grad_(True) for n in first}
            loss = sum(_loss(skeleton, mean, batch) for batch in batches) / len(batches)
            if loss < least:
                best, least = maps, loss
            for name, tensor in mean.items():
                trained[name].grad = tensor.grad
            adam.step()
            if step + 1 < options.steps:
                maps = match_weights(
                    two.symmetry,
                    lambda name: trained[name].detach().numpy(),
                    two.read_second,
                    sweeps=2,
                    seed=options.seed + step,
                    start=maps,
                ).maps
            progress.advance(1)
    progress.finish()
    return best


def _turned(two: Two, maps: Mapping[str, Map], name: str) -> np.ndarray:
    return mapped(two.symmetry, maps, name, two.read_second(name))


@contextmanager
def _whole(skeleton: Skeleton, two: Two) -> Iterator[None]:
    """Hold the first model's weights in the module, so that nothing in it is empty."""
    with skeleton.loaded(two.first.checkpoint, list(skeleton.stored)):
        yield


def _loss(skeleton: Skeleton, weights: Mapping[str, torch.Tensor], batch: Batch) -> float:
    """Return the mean loss of a batch with given weights, and add its gradient to theirs."""
    import torch

    from steelyard.measure.windows import IGNORED

    held = {name: weights[stored] for name, stored in skeleton.stored.items() if stored in weights}
    arguments: dict[str, Any] = {"input_ids": torch.from_numpy(batch.inputs)}
    if skeleton.task != "causal":
        arguments["attention_mask"] = torch.from_numpy(batch.valid.astype("int64"))
    logits = torch.func.functional_call(skeleton.module, held, (), arguments).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(batch.labels).flatten(), ignore_index=IGNORED
    )
    torch.autograd.backward(loss)
    return float(loss.detach())
