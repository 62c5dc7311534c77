"""Learned step sizes: float weights and the steps of their grid are trained together."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from steelyard.codecs import IntegerCodec, TernaryCodec
from steelyard.edits.tune.registry import tuner
from steelyard.edits.tune.trainable import Start, Trainable


class LsqOptions(BaseModel):
    """LSQ has no settings of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@tuner(
    name="lsq",
    summary="float weights and the steps of their grid are trained together",
    paper="Esser et al. 2020, 1902.08153",
    options=LsqOptions,
    codecs=(IntegerCodec, TernaryCodec),
)
def learned_step_size(start: Start, options: LsqOptions) -> Trainable:
    """Train a matrix with learned steps.

    The steps begin at the stored scales and the float weights at the original's, moved into the cells of the stored
    codes, so that the first step sees what is stored. The gradient of a step is scaled by 1 / sqrt(n Q), n weights
    under it and Q the greatest code, which only an optimizer that is not invariant to scale notices. Zero points
    stay. A step is rounded to the type of the codec's scales in every forward pass.

    Source: Esser et al. 2020, 1902.08153, equations 1 to 5; section 2.2 for the scale of the gradient.
    """
    from steelyard.edits.tune._learned import LearnedStepSize

    return LearnedStepSize(start)
