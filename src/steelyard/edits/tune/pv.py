"""PV-Tuning: continuous parameters by gradient, codes by steps on a small subspace."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.tune.protocol import CODECS, quantized
from steelyard.edits.tune.registry import tuner
from steelyard.edits.tune.trainable import Start, Trainable


class PvOptions(BaseModel):
    """Settings of PV-Tuning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(
        default=0.1, ge=0, le=1, description="of the units, whose codes may change in a step; 0 leaves all codes"
    )
    trust: float = Field(
        default=0.1, gt=0, description="largest change of a matrix in a step, as a share of its norm"
    )
    first: Literal["gain", "distance"] = Field(
        default="gain", description="units that may change: those that gain most, or those furthest from their aim"
    )
    travel: float = Field(
        default=0.5, gt=0, description="way of the weights behind the codes in a run, as a share of their norm"
    )
    momentum: float = Field(default=0.0, ge=0, lt=1, description="of the gradients behind changes of codes")
    memory: float = Field(
        default=1.0, ge=0, le=1, description="of what codes could not follow yet: 1 keeps it, 0 forgets it"
    )


@tuner(
    name="pv",
    summary="continuous parameters by gradient, codes by projected steps on a small subspace",
    paper="Malinovskii et al. 2024, 2405.14852",
    options=PvOptions,
    codecs=CODECS,
)
def pv_tuning(start: Start, options: PvOptions) -> Trainable:
    """Train a matrix by P steps, which the loop's optimizer takes in scales and codebooks, and V steps in codes.

    A V step moves a buffer of float weights by Adam's update, chooses the units (vectors of a codebook, single
    integers) that come most nearer to it, and gives those the codes nearest to it, until the matrix has changed by
    its share of trust. P and V use the same gradient, as the authors' program does. With share=0 this is training
    of codebooks and scales alone.

    Source: Malinovskii et al. 2024, PV-Tuning: beyond straight-through estimation for extreme LLM compression,
        2405.14852, algorithms 1 to 3. The command of its authors' repository has a share and a trust of 0.01 and
        steps of 0.003, for runs of many more steps than the few hundred that the defaults here are for.
    """
    from steelyard.edits.tune._discrete import DiscreteTraining, Reach

    reach = Reach(options.share, options.trust, options.first)
    return DiscreteTraining(quantized(start), reach, options.travel, options.momentum, options.memory)
