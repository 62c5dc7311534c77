"""The integers of a codec as the rounding loops see them: range, groups, and the numbers a scale can be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.codecs import IntegerCodec
from steelyard.errors import UserError

# (significant bits, exponent of the smallest normal number, largest number) of the dtypes of scales.
_SCALE_NUMBERS = {
    "BF16": (8, -126, 3.3895313892515355e38),
    "F16": (11, -14, 65504.0),
    "F32": (24, -126, 3.4028234663852886e38),
}


@dataclass(frozen=True)
class Grid:
    """Where the weights of one matrix may be rounded to.

    Attributes:
        low: smallest code.
        high: largest code.
        symmetric: whether the zero point is fixed, at `centre`.
        bounds: int64 [groups + 1], first column of each group, then the number of columns.
        number: the scale's dtype, as `_kernels.to_scale` wants it.
    """

    low: float
    high: float
    symmetric: bool
    bounds: np.ndarray
    number: np.ndarray

    @classmethod
    def of(cls, codec: IntegerCodec, columns: int) -> Grid:
        """Return the grid of a codec for a matrix of so many columns (inputs)."""
        size = codec.group_size or columns
        low, high = codec.code_range
        bounds = np.append(np.arange(0, columns, size), columns)
        return cls(float(low), float(high), codec.symmetric, bounds, number_of(codec.scale_dtype))

    @property
    def centre(self) -> float:
        """The zero point of symmetric codes: 0, or -1/2 between the two codes of 1 bit."""
        return -0.5 if self.high == 0.0 else 0.0

    @property
    def groups(self) -> int:
        """Number of groups along the inputs."""
        return len(self.bounds) - 1

    def stored(self, scale: np.ndarray) -> np.ndarray:
        """Return scales as they will be read back: the nearest numbers of their dtype, none of them 0; float64.

        What `_kernels.to_scale` does, for arrays.
        """
        return stored(scale, self.number)

    def group_of(self) -> np.ndarray:
        """Return the group of every column, int64 [in]."""
        sizes = np.diff(self.bounds)
        return np.repeat(np.arange(self.groups), sizes)


def stored(scale: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Return scales as a dtype holds them, none of them 0; float64."""
    veltkamp, normal_from, shift, smallest, largest = number
    magnitude = np.minimum(np.abs(scale), largest)
    wide = magnitude * veltkamp
    rounded = np.where(magnitude >= normal_from, wide - (wide - magnitude), (magnitude + shift) - shift)
    found: np.ndarray = np.copysign(np.clip(rounded, smallest, largest), scale)
    return found


def number_of(dtype: str) -> np.ndarray:
    """Return a dtype of scales as `_kernels.to_scale` wants it.

    Raises:
        UserError: if scales of this dtype cannot be searched.
    """
    if dtype not in _SCALE_NUMBERS:
        accepted = ", ".join(_SCALE_NUMBERS)
        raise UserError(f"scales cannot be searched in {dtype}; accepted are {accepted}")
    precision, exponent, largest = _SCALE_NUMBERS[dtype]
    smallest = 2.0 ** (exponent - precision + 1)
    veltkamp = 2.0 ** (53 - precision) + 1.0
    return np.array([veltkamp, 2.0**exponent, 1.5 * 2.0**52 * smallest, smallest, largest])
