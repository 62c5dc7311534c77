"""Straight-through training of codes: the baseline of PV-Tuning."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.tune.protocol import CODECS, quantized
from steelyard.edits.tune.registry import tuner
from steelyard.edits.tune.trainable import Start, Trainable


class StraightThroughOptions(BaseModel):
    """Settings of straight-through training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    travel: float = Field(
        default=0.5, gt=0, description="way of the float weights in a run, as a share of their norm"
    )
    momentum: float = Field(default=0.0, ge=0, lt=1, description="of the gradients behind changes of codes")


@tuner(
    name="straight-through",
    summary="float weights take the gradient of what they are rounded to; all codes follow them at every step",
    paper="Bengio et al. 2013, 1308.3432; van den Oord et al. 2017, 1711.00937",
    options=StraightThroughOptions,
    codecs=CODECS,
)
def straight_through(start: Start, options: StraightThroughOptions) -> Trainable:
    """Train a matrix with a float weight that begins where the codes are and is rounded to codes at every step.

    Its codebooks and scales are trained beside it, as by `pv`; the difference is that every code may change at
    every step.
    """
    from steelyard.edits.tune._discrete import DiscreteTraining, Reach

    return DiscreteTraining(quantized(start), Reach(1.0, None), options.travel, options.momentum, 1.0)
