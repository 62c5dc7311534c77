"""Integers plus a low-rank correction, each fitted to what the other leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from steelyard.codecs import SumCodec
from steelyard.edits.quantize._rounded import Rounded
from steelyard.edits.quantize.error import error
from steelyard.edits.quantize.gptq import GptqOptions, gptq
from steelyard.edits.quantize.statistics import Statistics
from steelyard.edits.registry import method


class LowRankOptions(GptqOptions):
    """Options of integers with a low-rank correction: those of GPTQ, and how often both are fitted."""

    rounds: int = Field(default=3, ge=1, description="times that integers and correction are fitted in turn")


@dataclass(frozen=True)
class Corrected:
    """Integers and the two thin factors added to them.

    Attributes:
        codec: how both are stored.
        base: the integers.
        factors: parts of the correction, lora_b [out, rank] and lora_a [rank, in].
    """

    codec: SumCodec
    base: Rounded
    factors: Mapping[str, np.ndarray]

    def parts(self) -> dict[str, np.ndarray]:
        """Return the stored parts of both."""
        return {**self.base.parts(), **self.factors}

    def decode(self) -> np.ndarray:
        """Return the matrix as readers will see it, float32 [out, in]."""
        decoded: np.ndarray = self.base.decode() + self.codec.correction.decode(self.factors, self.base.codes.shape)
        return decoded


@method(
    name="low-rank",
    summary="round by GPTQ and add a low-rank correction, each fitted in turn to what the other leaves",
    paper="Yao et al. 2023, arXiv 2303.08302; alternation as in Guo et al. 2023, arXiv 2311.12023",
    options=LowRankOptions,
)
def low_rank(
    weight: np.ndarray,
    codec: SumCodec,
    statistics: Statistics | None = None,
    options: LowRankOptions | None = None,
) -> Corrected:
    """Round a matrix to integers plus a product of two thin matrices.

    The product begins as the best one for the whole matrix: taking out its strong directions leaves the integers
    a narrower range, which reaches in one round what beginning with the integers reaches in four. Each round
    takes GPTQ of what the product leaves, then the best product for what the integers leave under the damped
    second moment of the inputs; the best round is kept.

    Args:
        weight: [out, in], any float dtype.
        codec: a sum of integers and a low-rank product.
        statistics: of the inputs.
        options: see `LowRankOptions`.

    Raises:
        UserError: if the statistics do not fit the matrix.
    """
    options = options or LowRankOptions()
    statistics = statistics or Statistics()
    weight = weight.astype(np.float32)
    columns = weight.shape[1]
    factor = statistics.factor(columns, options.damping, options.activation_order)
    moment = np.diag(statistics.importance(columns)) if factor is None else factor.hessian
    product = codec.correction.decode(codec.correction.factor(weight, moment), weight.shape)
    best: tuple[float, Corrected] | None = None
    for _ in range(options.rounds):
        base = gptq(weight - product, codec.base, statistics, options)
        factors = codec.correction.factor(weight - base.decode(), moment)
        found = Corrected(codec, base, factors)
        product = codec.correction.decode(factors, weight.shape)
        loss = error(weight, found.decode(), moment)
        if best is None or loss < best[0]:
            best = loss, found
    assert best is not None
    return best[1]
