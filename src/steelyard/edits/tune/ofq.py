"""Oscillation-free training: statistical steps, and annealing that freezes the weights whose codes are certain."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from steelyard.codecs import IntegerCodec, TernaryCodec
from steelyard.edits.tune.registry import tuner
from steelyard.edits.tune.trainable import Start, Trainable


class OfqOptions(BaseModel):
    """Options of OFQ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    statistic: Literal["fitted", "paper"] = Field(
        "fitted", description="a step is so many mean magnitudes of its weights: as at the start, or 4 / 2^bits"
    )
    anneal: float = Field(0.2, ge=0, lt=1, description="share of the steps, the last ones, that anneal")
    boundary: float = Field(
        0.005, gt=0, le=0.5, description="annealing: how near to another code a weight may move"
    )


@tuner(
    name="ofq",
    summary="steps follow the mean magnitude of their weights; in the end only undecided weights move",
    paper="Liu et al. 2023, 2302.02210",
    options=OfqOptions,
    codecs=(IntegerCodec, TernaryCodec),
)
def oscillation_free(start: Start, options: OfqOptions) -> Trainable:
    """Train a matrix with statistical steps (StatsQ), then with confidence-guided annealing (CGA).

    A step is the mean magnitude of the weights under it, times a constant; it is never learned, and gradients of
    the weights pass straight through. The paper's levels lie half a step beside zero, which no integer format
    stores; here they are those of the codec, and the paper's constant 4 / 2^bits is one of two choices. Over the
    last steps only weights within `boundary` steps of the middle between two codes move. Query-key
    reparametrization (QKR) trains the product of both projections, which no checkpoint of these architectures
    stores: it is not part of this.

    Source: Liu et al. 2023, 2302.02210, sections 4.1 and 4.2; its code, nbasyl/OFQ, for the default of `boundary`.
    """
    from steelyard.edits.tune._statistical import StatisticalSteps

    return StatisticalSteps(start, options)
