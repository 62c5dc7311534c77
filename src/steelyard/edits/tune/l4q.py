"""Quantization of a weight with a low-rank update in it: plain integers in the end, and no adapter."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from steelyard.codecs import IntegerCodec, TernaryCodec
from steelyard.edits.tune.registry import tuner
from steelyard.edits.tune.trainable import Start, Trainable


class L4qOptions(BaseModel):
    """Options of L4Q."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(8, ge=1, description="rank of the update")
    alpha: float = Field(1.0, gt=0, description="factor of the update")


@tuner(
    name="l4q",
    summary="quantize(W0 + BA): a low-rank update and the steps are trained, plain codes are stored",
    paper="Jeon et al. 2024, 2402.04902",
    options=L4qOptions,
    codecs=(IntegerCodec, TernaryCodec),
)
def low_rank_quantized(start: Start, options: L4qOptions) -> Trainable:
    """Train the quantized sum of a frozen weight and a low-rank product, with learned steps and zero points.

    The optimizer keeps moments for B [out, rank], A [rank, in], the steps and the zero points only; the sum is made
    again in the backward pass. B begins at 0. Zero points of asymmetric codecs are rounded to integers in every
    forward pass, which makes them the paper's bias b = -zero * step at the precision that is stored.

    Source: Jeon et al. 2024, 2402.04902, section 3.
    """
    from steelyard.edits.tune._merged import MergedLowRank

    return MergedLowRank(start, options)
