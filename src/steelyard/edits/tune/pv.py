"""PV-Tuning: continuous parameters by gradient, codes by steps on a small subspace."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.tune.protocol import CODECS, quantized
from steelyard.edits.tune.registry import tuner
from steelyard.edits.tune.trainable import Start, Trainable


class PvOptions(BaseModel):
    """Settings of PV-Tuning; the defaults are those of its authors' published runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(
        default=0.01, ge=0, le=1, description="of the units, whose codes may change in a step; 0 leaves all codes"
    )
    trust: float = Field(
        default=0.01, gt=0, description="largest change of a matrix in a step, as a share of its norm"
    )
    code_rate: float = Field(
        default=0.003, gt=0, description="length of a step towards new codes, as a share of the matrix's norm"
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
    integers) that are furthest from it, and gives those the codes nearest to it, until the matrix has changed by
    its share of trust. P and V use the same gradient, as the authors' program does. With share=0 this is training
    of codebooks and scales alone.

    Source: Malinovskii et al. 2024, PV-Tuning: beyond straight-through estimation for extreme LLM compression,
        2405.14852, algorithms 1 to 3; defaults from the command of its authors' repository.
    """
    from steelyard.edits.tune._discrete import DiscreteTraining, Reach

    reach = Reach(options.share, options.trust)
    return DiscreteTraining(quantized(start), reach, options.code_rate, options.momentum, options.memory)
