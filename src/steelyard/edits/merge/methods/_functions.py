"""Exponentials and hyperbolic tangents that a processor computes several at a time, for compiled loops.

Series after the argument is brought near 0; rounding goes to the nearest whole number by adding one so large that
only whole numbers are left beside it. Both hold to a few units in the last place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.compiled import inner, unchecked

_ROUND32 = np.float32(12582912.0)  # 1.5 * 2 ** 23
_ROUND64 = 6755399441055744.0  # 1.5 * 2 ** 52
_LOG2E = 1.4426950408889634
# ln 2 in two parts; products of the first with whole numbers of few bits are exact.
_LN2_HIGH32, _LN2_LOW32 = np.float32(0.693145751953125), np.float32(1.4286068203094173e-06)
_LN2_HIGH64, _LN2_LOW64 = 0.6931471803691238, 1.9082149292705877e-10


@inner
def exponential32(x: Any) -> Any:
    """Return e to the power of a number that is not above 0; float32."""
    x = max(x, np.float32(-80))
    shifted = np.float32(x * np.float32(_LOG2E) + _ROUND32)
    whole = np.float32(shifted - _ROUND32)
    r = np.float32(np.float32(x - whole * _LN2_HIGH32) - whole * _LN2_LOW32)
    s = np.float32(1 / 5040)
    s = np.float32(s * r + np.float32(1 / 720))
    s = np.float32(s * r + np.float32(1 / 120))
    s = np.float32(s * r + np.float32(1 / 24))
    s = np.float32(s * r + np.float32(1 / 6))
    s = np.float32(s * r + np.float32(0.5))
    s = np.float32(np.float32(s * r + np.float32(1)) * r + np.float32(1))
    power = np.uint32(np.uint32(np.uint32(shifted.view(np.uint32)) + np.uint32(127)) << np.uint32(23))
    return np.float32(s * power.view(np.float32))


@unchecked
def quotient(above: Any, below: Any) -> Any:
    """Return a quotient of float32; by 0 it is infinite or NaN."""
    return above / below


@unchecked
def quotient64(above: Any, below: Any) -> Any:
    """Return a quotient of float64; by 0 it is infinite or NaN."""
    return above / below


@inner
def tanh32(x: Any) -> Any:
    """Return the hyperbolic tangent; float32, precise in its last places near 0 too."""
    size = abs(x)
    q = np.float32(size * size)
    near = np.float32(62 / 2835)
    near = np.float32(near * q - np.float32(17 / 315))
    near = np.float32(near * q + np.float32(2 / 15))
    near = np.float32(near * q - np.float32(1 / 3))
    near = np.float32(np.float32(near * q) * size + size)
    e = exponential32(np.float32(np.float32(-2) * size))
    far = quotient(np.float32(np.float32(1) - e), np.float32(np.float32(1) + e))
    found = near if size < np.float32(0.25) else far
    return found if x >= np.float32(0) else -found


@inner
def exponential64(x: Any) -> Any:
    """Return e to the power of a number that is not above 0; float64."""
    x = max(x, -700.0)
    shifted = x * _LOG2E + _ROUND64
    whole = shifted - _ROUND64
    r = (x - whole * _LN2_HIGH64) - whole * _LN2_LOW64
    s = 1 / 479001600
    s = s * r + 1 / 39916800
    s = s * r + 1 / 3628800
    s = s * r + 1 / 362880
    s = s * r + 1 / 40320
    s = s * r + 1 / 5040
    s = s * r + 1 / 720
    s = s * r + 1 / 120
    s = s * r + 1 / 24
    s = s * r + 1 / 6
    s = s * r + 0.5
    s = (s * r + 1.0) * r + 1.0
    power = (np.float64(shifted).view(np.int64) + np.int64(1023)) << np.int64(52)
    return s * np.int64(power).view(np.float64)
