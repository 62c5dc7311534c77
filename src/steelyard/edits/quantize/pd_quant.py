"""PD-Quant: scales and rounding chosen by what they do to the network's predictions. Works on a whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize._rounded import Rounded
from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    from steelyard.measure.model import Model
    from steelyard.measure.windows import TokenSet

NAME = "pd-quant"


class PdQuantOptions(BaseModel):
    """Options of PD-Quant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=48, ge=0, description="steps of signed gradient descent for each block")
    tokens: int = Field(default=512, ge=1, description="positions in a step")
    shares: tuple[float, ...] = Field(
        default=(0.9, 0.95, 1.05), description="multiples of a matrix's scales tried before the descent"
    )
    travel: float = Field(default=0.1, gt=0, le=0.5, description="how far an offset may go in all, in codes")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of the gradients whose signs are followed")
    reach: float = Field(default=0.05, ge=0, lt=1, description="how far the descent may move a scale, as a share")
    local: float = Field(
        default=3.0, ge=0, description="weight of the block's own relative error beside the divergence"
    )
    prediction: bool = Field(default=True, description="judge by predictions; otherwise by the block's error alone")
    temperature: float = Field(default=1.0, gt=0, description="of both predictions; 7 in the paper's code")
    correction: float = Field(
        default=0.0, ge=0, le=1, description="how far activations are moved to the statistics of all windows"
    )
    judges: float = Field(
        default=0.2, gt=0, lt=1, description="share of the windows that judge and are never descended on"
    )


@dataclass(frozen=True)
class Begun:
    """Where one matrix begins.

    Attributes:
        weight: float32 [out, in].
        rounded: codes, scales and zero points by another method.
        transposed: whether the model has the matrix as [in, out].
    """

    weight: np.ndarray
    rounded: Rounded
    transposed: bool = False


@dataclass(frozen=True)
class Outcome:
    """What PD-Quant found.

    Attributes:
        rounded: by tensor name.
        before: objective over the windows that judge, of each block under the codes it began with.
        after: the same under those it ended with; never above.
    """

    rounded: Mapping[str, Rounded]
    before: tuple[float, ...]
    after: tuple[float, ...]


def pd_quant(
    model: Model,
    begun: Mapping[str, Begun],
    data: TokenSet,
    options: PdQuantOptions | None = None,
    progress: Progress = SILENT,
) -> Outcome:
    """Choose scales and rounding of all matrices of a model's blocks, block after block.

    The objective is KL(original || model with this and the earlier blocks rounded) plus `local` times the relative
    squared error of the block's output. First each matrix's scales are multiplied by what serves the objective
    best, then offsets before rounding and the scales of all groups descend by signed gradients that pass rounding
    straight through, which takes a hundredth of the steps of the paper's relaxed rounding. Scales are chosen, and
    the outcome of a descent is judged, on windows that are not descended on; where it is no better there, a block's
    codes stay as they were.

    Distribution correction: the original activations of each batch are moved, channel by channel, towards mean and
    spread over all windows, and what follows from them is the prediction aimed at. The paper matches the statistics
    of batch normalization, which language models do not have, by gradient descent.

    Args:
        model: the original; it is held in memory in float32.
        begun: matrices of blocks by the name of the stored tensor.
        data: windows, at least two; a share of them judges.
        options: see `PdQuantOptions`.
        progress: advanced by the blocks.

    Raises:
        UserError: for an encoder, which predicts nothing, and for codes that are no integers.

    Source: Liu et al. 2023, PD-Quant, arXiv 2212.07048, equations 4, 6 and 8, and its code for the objective.
    """
    from steelyard.edits.quantize import _prediction

    if model.task == "encoder":
        raise UserError(f"{model.location} is an encoder and predicts nothing; round it by another method")
    if len(data.windows) < 2:
        raise UserError(f"{NAME} needs two windows of text or more: some to descend on, others to judge")
    for name, item in begun.items():
        if not isinstance(item.rounded.codec, IntegerCodec):
            raise UserError(f"{name}: {NAME} rounds integers")
    return _prediction.descend(model, begun, data, options or PdQuantOptions(), progress)
