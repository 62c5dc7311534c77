"""Chains of signs times low-rank magnitudes, scaled by the activations."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.codecs import SignChainCodec
from steelyard.edits.quantize.any_precision import Nested
from steelyard.edits.quantize.statistics import Statistics
from steelyard.edits.registry import method
from steelyard.errors import UserError


class SignChainOptions(BaseModel):
    """Options of chains of signs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: bool = Field(
        default=True, description="weigh errors by the mean square of each input and what each output costs"
    )


@method(
    name="sign-chain",
    summary="blocks of signs times low-rank magnitudes, each for what the blocks before it leave",
    paper="Wang et al. 2025, BitStack, arXiv 2410.23918",
    options=SignChainOptions,
)
def sign_chain(
    weight: np.ndarray,
    codec: SignChainCodec,
    statistics: Statistics | None = None,
    options: SignChainOptions | None = None,
) -> Nested:
    """Decompose a matrix into a chain, the mean squares of the inputs weighing its errors.

    What an error of each output costs weighs the rows likewise: like the columns' scales it is divided out of the
    factors again, so that neither is stored. The paper has the columns' alone.

    Args:
        weight: [out, in], any float dtype.
        codec: how many blocks, and their rank.
        statistics: of the inputs.
        options: see `SignChainOptions`.

    Raises:
        UserError: if the codec is another, or the statistics do not fit the matrix.
    """
    if not isinstance(codec, SignChainCodec):
        raise UserError(f"sign-chain makes chains of signs, not {codec.label}")
    options, statistics = options or SignChainOptions(), statistics or Statistics()
    columns = weight.shape[1]
    importance = statistics.importance(columns) if options.scale else None
    shape = (int(weight.shape[0]), int(columns))
    lines = statistics.row_weight if options.scale else None
    return Nested(codec, codec.chain(weight, importance, lines), shape)
