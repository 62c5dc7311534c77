"""What every codec is: parts of known types and shapes, exact bytes, encode and decode, and its name on paper."""

from __future__ import annotations

import dataclasses
import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from steelyard.errors import UserError
from steelyard.weights.dtypes import DTYPES

Parts = dict[str, np.ndarray]
Shape = Sequence[int]
"""Shapes of weights are [out, in]; only dense codecs without scales take others."""

_REGISTRY: dict[str, type[Codec]] = {}


@dataclass(frozen=True)
class Codec(ABC):
    """One way to store a tensor. Subclasses are frozen dataclasses; defining one with a `name` registers it.

    Attributes:
        name: what plans and configs call the kind of codec.
    """

    name: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.name:
            if cls.name in _REGISTRY and _REGISTRY[cls.name].__qualname__ != cls.__qualname__:
                raise TypeError(f"two codecs are called {cls.name}: {_REGISTRY[cls.name]} and {cls}")
            _REGISTRY[cls.name] = cls

    @property
    @abstractmethod
    def label(self) -> str:
        """A short name for tables, such as "int4 g64 sym"."""

    @abstractmethod
    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return {part: (safetensors dtype, shape)} of a tensor of `shape`, in stored order.

        Raises:
            UserError: if this codec cannot hold such a tensor.
        """

    @abstractmethod
    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Encode a tensor.

        Args:
            weight: float32, bfloat16 or float16.
            name: what errors call the tensor.

        Raises:
            UserError: if a value is NaN, infinite or beyond what the codec can hold.
        """

    @abstractmethod
    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return the float32 tensor of `shape` that `parts` stand for."""

    def residual(self, rows: np.ndarray, parts: Mapping[str, np.ndarray]) -> tuple[float, float]:
        """Return the sums of squares of (decoded - rows) and of rows, in float64."""
        wide = rows.astype(np.float32)
        lost = (self.decode(parts, rows.shape) - wide).astype(np.float64)
        return float(np.vdot(lost, lost)), float(np.vdot(wide.astype(np.float64), wide))

    def nbytes(self, shape: Shape) -> int:
        """Return the exact bytes of all parts of a tensor of `shape`."""
        return sum(DTYPES[dtype].nbytes(part) for dtype, part in self.parts(shape).values())

    def bits_per_weight(self, shape: Shape) -> float:
        """Return stored bits for each element, scales and padding included."""
        return 8 * self.nbytes(shape) / max(1, math.prod(shape))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which `from_dict` makes an equal codec."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {key: value.to_dict() if isinstance(value, Codec) else value for key, value in values.items()}
        return {"name": self.name, **plain}


def names() -> tuple[str, ...]:
    """Return the names of all registered codecs."""
    return tuple(sorted(_REGISTRY))


def codec_class(name: str) -> type[Codec]:
    """Return the codec class of a name.

    Raises:
        UserError: if there is none, naming the nearest.
    """
    if name not in _REGISTRY:
        near = difflib.get_close_matches(str(name), _REGISTRY, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"no codec is called {name!r}; {hint}available: {', '.join(names())}")
    return _REGISTRY[name]


def from_dict(data: Mapping[str, Any]) -> Codec:
    """Return the codec that `Codec.to_dict` described.

    Raises:
        UserError: naming the unknown codec, field or value.

    Example:
        >>> from steelyard.codecs import IntegerCodec, from_dict
        >>> from_dict(IntegerCodec(bits=4, group_size=64).to_dict()).label
        'int4 g64 sym'
    """
    kind = codec_class(data.get("name", ""))
    fields = {field.name for field in dataclasses.fields(kind)}
    values = {key: value for key, value in data.items() if key != "name"}
    if unknown := sorted(set(values) - fields):
        raise UserError(f"codec {kind.name} has no field {unknown[0]!r}; fields: {', '.join(sorted(fields))}")
    nested = {key: from_dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    try:
        return kind(**nested)
    except TypeError as error:
        missing = sorted(
            field.name
            for field in dataclasses.fields(kind)
            if field.default is dataclasses.MISSING and field.name not in values
        )
        raise UserError(f"codec {kind.name} needs {', '.join(missing) or 'other values'}") from error


def numpy_type(dtype: str) -> np.dtype[Any]:
    """Return the numpy type of a safetensors dtype whose elements fill whole bytes."""
    kind = DTYPES[dtype].numpy
    if kind is None:
        raise ValueError(f"{dtype} has no numpy type")
    return kind


def float_limits(dtype: str) -> tuple[np.float32, np.float32]:
    """Return the least normal number and the greatest number of a safetensors float type."""
    finfo: Any = ml_dtypes.finfo
    info = finfo(numpy_type(dtype))
    return np.float32(info.smallest_normal), np.float32(info.max)


def check_parts(codec: Codec, parts: Mapping[str, np.ndarray], shape: Shape) -> None:
    """Refuse parts whose names, dtypes or shapes are not those `codec` gives a tensor of `shape`.

    Raises:
        UserError: naming the part and both sides.
    """
    expected = codec.parts(shape)
    if set(parts) != set(expected):
        raise UserError(f"{codec.label} has parts {', '.join(expected)}; got {', '.join(parts) or 'none'}")
    for key, (dtype, part_shape) in expected.items():
        array = parts[key]
        if array.dtype != numpy_type(dtype) or array.shape != part_shape:
            raise UserError(
                f"{key} of {codec.label} for {list(shape)} must be {dtype} {list(part_shape)}, "
                f"not {array.dtype} {list(array.shape)}"
            )


def matrix(codec: Codec, shape: Shape) -> tuple[int, int]:
    """Return `shape` as (out, in).

    Raises:
        UserError: if it is not that of a matrix with elements.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise UserError(f"{codec.label} holds matrices [out, in]; got shape {list(shape)}")
    return int(shape[0]), int(shape[1])
