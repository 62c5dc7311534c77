"""From a matrix and a codec to the bytes that will stand for it: one door for planning and for writing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.budget.knowledge import Knowledge
from steelyard.budget.plan import TensorPlan
from steelyard.codecs import Codec, DenseCodec, IntegerCodec, SumCodec, require_finite
from steelyard.codecs.gguf import GgufCodec
from steelyard.edits import registry
from steelyard.edits.quantize.statistics import Statistics
from steelyard.errors import UserError

ABSMAX = "absmax"
"""Scales from the extremes of each group and nearest integers: the streamed path, one pass over the bytes."""


@dataclass(frozen=True)
class Encoded:
    """A matrix as it will be stored and as readers will see it.

    Attributes:
        parts: arrays by the codec's part names.
        decoded: float32 of the matrix's shape.
    """

    parts: dict[str, np.ndarray]
    decoded: np.ndarray


def rounding_of(codec: Codec | None, rounding: str) -> str:
    """Return the method that encodes `codec` where integers are rounded by `rounding`."""
    if codec is None or isinstance(codec, DenseCodec):
        return ""
    if isinstance(codec, GgufCodec):
        return "gguf"
    return "low-rank" if isinstance(codec, SumCodec) else rounding


def encode(weight: np.ndarray, codec: Codec, rounding: str, statistics: Statistics) -> Encoded:
    """Encode a matrix [out, in] of float32.

    Args:
        weight: the matrix.
        codec: how to store it.
        rounding: name of a registered method, or `ABSMAX`; ignored for dense codecs.
        statistics: what is known about its inputs.
    """
    if isinstance(codec, DenseCodec) or (rounding == ABSMAX and isinstance(codec, IntegerCodec)):
        parts = codec.encode(weight)
        return Encoded(parts, codec.decode(parts, weight.shape))
    if rounding == ABSMAX:
        raise UserError(f"{codec.label} cannot be rounded by {ABSMAX}; name a method: steelyard methods")
    result = registry.get(rounding).function(weight, codec, statistics)
    return Encoded(result.parts(), result.decode())


def encode_parts(item: TensorPlan, codec: Codec, matrix: np.ndarray, known: Knowledge) -> dict[str, np.ndarray]:
    """Return the parts of a tensor encoded as its plan says.

    Args:
        item: the plan.
        codec: its codec.
        matrix: the tensor, [out, in] if it is a matrix, in its stored type; it may be a view of the file.
        known: what is known about it.

    Raises:
        UserError: if a value is not finite.
    """
    if item.rounding == ABSMAX:
        # One pass over the stored bytes, without a float copy of the tensor.
        return codec.encode(matrix, item.source)
    require_finite(item.source, matrix)
    return encode(np.ascontiguousarray(matrix, dtype=np.float32), codec, item.rounding, known.statistics).parts
