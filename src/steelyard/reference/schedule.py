"""What each step of a run sees: its learning rate and its tokens, functions of the step and the options alone."""

from __future__ import annotations

import math

import numpy as np

from steelyard.errors import UserError
from steelyard.reference.options import TrainOptions
from steelyard.seeds import generator

_SECOND_PEAK = 2 / 3


def rate_factor(step: int, options: TrainOptions) -> float:
    """Return the learning rate of `step` (from 0) as a share of the peak: linear up, flat, then 1 - sqrt down.

    TriLM's schedule falls linearly from the end of the warm-up, from a peak of two thirds after half of the steps.

    Source: Hägele et al. 2024, 2405.18392: the decay may begin from any step of the stable phase; Kaushal et al.
    2024, 2407.12327, section 3.2 (their second peak is 0.6 to 0.7 of the first, by size).
    """
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    if options.falling == "trilm":
        left = (options.steps - step) / max(options.steps - options.warmup_steps, 1)
        return left * (_SECOND_PEAK if 2 * step >= options.steps else 1)
    into_decay = step - options.decay_start
    if options.decay_steps and into_decay >= 0:
        return 1 - math.sqrt((into_decay + 1) / (options.decay_steps + 1))
    return 1.0


def decay_factor(step: int, options: TrainOptions) -> float:
    """Return the weight decay of `step` as a share of the one asked for: TriLM drops it after two thirds."""
    return 0.0 if options.falling == "trilm" and 3 * step >= 2 * options.steps else 1.0


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
    stretch = options.stretch_at(step)
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
