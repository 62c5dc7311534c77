"""Smooth and rotate the inputs of one matrix, round it there, and turn it back when it is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from steelyard.codecs import IntegerCodec
from steelyard.codecs.rotated import RotatedCodec
from steelyard.edits.quantize._rounded import Rounded
from steelyard.edits.quantize.gptq import GptqOptions, gptq
from steelyard.edits.quantize.statistics import Statistics
from steelyard.edits.registry import method
from steelyard.errors import UserError


class RotatedOptions(GptqOptions):
    """Options of a smooth-fused rotation: those of GPTQ, and how much is smoothed."""

    alpha: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="scale of a channel: inputs' power to this over weights' power to 1 - alpha; 0: no scale",
    )


@dataclass(frozen=True)
class Turned:
    """Integers of a scaled and rotated matrix.

    Attributes:
        codec: how all is stored.
        base: the integers.
        scale: of the columns, as stored [1, in].
    """

    codec: RotatedCodec
    base: Rounded
    scale: np.ndarray

    def parts(self) -> dict[str, np.ndarray]:
        """Return the stored parts."""
        return {**self.base.parts(), "column_scale": self.scale}

    def decode(self) -> np.ndarray:
        """Return the matrix as readers will see it, float32 [out, in]."""
        return self.codec.decode(self.parts(), self.base.codes.shape)


@method(
    name="rotated",
    summary="smooth and rotate the inputs, round by GPTQ there, and turn back when the matrix is read",
    paper="Xu et al. 2025, arXiv 2501.13484",
    options=RotatedOptions,
)
def round_rotated(
    weight: np.ndarray,
    codec: RotatedCodec,
    statistics: Statistics | None = None,
    options: RotatedOptions | None = None,
) -> Turned:
    """Round W diag(1 / c) H under the second moment of what enters it then, H^T diag(c) M diag(c) H.

    The scale c of a channel is random in sign. With alpha above 0 the inputs are divided by
    rms(x)^alpha / rms(w)^(1 - alpha) and the weights multiplied by it, before both are rotated.

    Args:
        weight: [out, in], any float dtype.
        codec: integers under a rotation.
        statistics: of the inputs; without a full second moment the codes are rounded to nearest, all inputs alike.
        options: see `RotatedOptions`.

    Raises:
        UserError: if the statistics do not fit the matrix, or the base is not integers.

    Source: MambaQuant's smooth-fused rotation (section 4.3; the smoothing is SmoothQuant's equation 4, of powers
        instead of maxima), for weights alone: it holds for any linear map, whatever stands before it.
    """
    options, statistics = options or RotatedOptions(), statistics or Statistics()
    if not isinstance(codec.base, IntegerCodec):
        raise UserError(f"integers are rounded under a rotation, not {codec.base.label}")
    columns = weight.shape[1]
    smooth = np.ones(columns)
    if options.alpha:
        inputs = np.sqrt(statistics.importance(columns))
        weights = np.sqrt((weight.astype(np.float64) ** 2).mean(axis=0))
        smooth = _usable(inputs) ** options.alpha / _usable(weights) ** (1.0 - options.alpha)
        smooth /= np.sqrt(smooth.max() * smooth.min())
    scale = codec.stored(codec.signs(columns) / smooth)
    moment = statistics.hessian(columns)
    if moment is not None:
        entering = scale.astype(np.float64).reshape(-1)
        moment = codec.rotate(np.ascontiguousarray(codec.rotate(entering[:, None] * moment * entering).T)).T
    base = gptq(codec.turned(weight, scale), codec.base, Statistics(moment), options)
    return Turned(codec, base, scale)


def _usable(values: np.ndarray) -> np.ndarray:
    """Return values with those that are next to nothing raised to a thousandth of the largest, or to 1."""
    floor = float(values.max()) * 1e-3
    raised: np.ndarray = np.maximum(values, floor) if floor > 0 else np.ones_like(values)
    return raised
