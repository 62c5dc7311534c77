"""What each step of a run sees: its learning rate and its tokens, functions of the step and the options alone."""

from __future__ import annotations

import math

import numpy as np

from steelyard.errors import UserError
from steelyard.reference.options import TrainOptions
from steelyard.seeds import generator


def rate_factor(step: int, options: TrainOptions) -> float:
    """Return the learning rate of `step` (from 0) as a share of the peak: linear up, flat, then 1 - sqrt down.

    Source: Hägele et al. 2024, 2405.18392: the decay may begin from any step of the stable phase.
    """
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    into_decay = step - options.decay_start
    if options.decay_steps and into_decay >= 0:
        return 1 - math.sqrt((into_decay + 1) / (options.decay_steps + 1))
    return 1.0


def batch_at(stream: np.ndarray, step: int, options: TrainOptions) -> np.ndarray:
    """Return the token windows of a step, int64 [sequences, length + 1].

    Each epoch cuts the stream at an offset of its own and permutes the windows, keyed by (seed, epoch). Windows
    are longer over the decay, at as many tokens per step.

    Args:
        stream: all tokens of the corpus, one document after the other.
        step: from 0.
        options: of the run.

    Raises:
        UserError: if the stream is too short for one batch.
    """
    stretch = options.decay_stretch if step >= options.decay_start else 1
    length, batch = options.sequence * stretch, options.batch // stretch
    windows = (len(stream) - length - 1) // length
    if windows < batch:
        raise UserError(
            f"the corpus has {len(stream)} tokens, too few for {batch} windows of {length}; "
            "lower --batch or --sequence, or give more sources"
        )
    epoch, place = divmod(step, windows // batch)
    draw = generator(options.seed, f"epoch {epoch}")
    offset = int(draw.integers(0, length))
    order = draw.permutation(windows)[place * batch : (place + 1) * batch]
    starts = offset + order * length
    return np.stack([stream[start : start + length + 1] for start in starts]).astype(np.int64)
