"""From a matrix and a codec to the bytes that will stand for it: one door for planning and for writing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from steelyard.budget.knowledge import Knowledge
from steelyard.budget.plan import TensorPlan
from steelyard.codecs import Codec, DenseCodec, EntropyCodec, require_finite
from steelyard.edits import registry
from steelyard.edits.quantize.statistics import Statistics
from steelyard.errors import UserError

ABSMAX = "absmax"
"""A codec's own encoder, for integers scales from the extremes of each group: one pass over the bytes."""

# Of several methods for one codec, the one that is meant where none is named.
_FIRST = {"codebook": "additive"}

# Codecs whose own encoder is what their sources publish; the others are made for the method that fills them.
_PUBLISHED = frozenset({"integer", "blockwise", "float8", "microscaling", "nvfp4", "power", "ternary"})


@dataclass(frozen=True)
class Encoded:
    """A matrix as it will be stored and as readers will see it.

    Attributes:
        parts: arrays by the codec's part names.
        decoded: float32 of the matrix's shape.
    """

    parts: dict[str, np.ndarray]
    decoded: np.ndarray


@cache
def _methods_by_codec() -> Mapping[str, tuple[str, ...]]:
    """Return the methods for each codec class by its name, as their signatures say."""
    found: dict[str, list[str]] = {}
    for name, method in registry.methods().items():
        parameter = inspect.signature(method.function).parameters.get("codec")
        for kind in str(parameter.annotation if parameter else "").split("|"):
            found.setdefault(kind.strip(), []).append(name)
    return {kind: tuple(names) for kind, names in found.items()}


def methods_for(codec: Codec) -> tuple[str, ...]:
    """Return the registered methods that round to a codec; those for its base where it codes another's integers."""
    inner = codec.base if isinstance(codec, EntropyCodec) else codec
    return _methods_by_codec().get(type(inner).__name__, ())


def rounding_of(codec: Codec | None, rounding: str) -> str:
    """Return the method that encodes `codec` where `rounding` is wanted and others do what it cannot.

    That is `rounding` itself if it is a method for the codec, else the codec's first method, else `ABSMAX`.
    """
    if codec is None or isinstance(codec, DenseCodec):
        return ""
    known = methods_for(codec)
    inner = codec.base if isinstance(codec, EntropyCodec) else codec
    if rounding in known or (rounding == ABSMAX and inner.name in _PUBLISHED):
        return rounding
    first = _FIRST.get(inner.name, "")
    return first if first in known else known[0] if known else ABSMAX


def encode(weight: np.ndarray, codec: Codec, rounding: str, statistics: Statistics) -> Encoded:
    """Encode a matrix [out, in] of float32.

    Args:
        weight: the matrix.
        codec: how to store it.
        rounding: name of a registered method, or `ABSMAX`; ignored for dense codecs.
            For entropy-coded integers it is the base that is rounded.
        statistics: what is known about its inputs.
    """
    if isinstance(codec, EntropyCodec):
        base = encode(weight, codec.base, rounding, statistics)
        return Encoded(codec.code(base.parts, weight.shape), base.decoded)
    if isinstance(codec, DenseCodec) or rounding == ABSMAX:
        parts = codec.encode(weight)
        return Encoded(parts, codec.decode(parts, weight.shape))
    if rounding not in methods_for(codec):
        others = ", ".join(methods_for(codec)) or "nothing but its own encoder"
        raise UserError(f"{codec.label} cannot be rounded by {rounding}; it has {others}")
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
