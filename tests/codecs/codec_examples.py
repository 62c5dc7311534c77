"""One or more examples of every codec, and matrices to try them on."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from steelyard.codecs import Codec, DenseCodec, IntegerCodec, LowRankCodec, SumCodec

EXAMPLES: Mapping[str, tuple[Codec, ...]] = {
    "dense": tuple(DenseCodec(dtype) for dtype in ("F32", "BF16", "F16", "F8_E4M3")),
    "integer": (
        IntegerCodec(4, 64, True),
        IntegerCodec(2, 16, False),
        IntegerCodec(3, 24, False, "F16"),
        IntegerCodec(5, None, False, "F32"),
        IntegerCodec(8, None, True, "F16"),
    ),
    "low_rank": (LowRankCodec(4), LowRankCodec(1, "F32"), LowRankCodec(7, "F16")),
    "sum": (SumCodec(IntegerCodec(3, 32, False), LowRankCodec(3, "F16")),),
}
"""By the codec's name; a contract test fails for a codec without an example."""

ALL = [codec for examples in EXAMPLES.values() for codec in examples]

FLOATS = (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16))


def normal(shape: tuple[int, ...], dtype: np.dtype = FLOATS[0], seed: int = 0, spread: float = 0.02) -> np.ndarray:
    """Return normal weights of the size found in models."""
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(dtype)


def relative(decoded: np.ndarray, weight: np.ndarray) -> float:
    """Return the relative Frobenius error in float64."""
    exact = weight.astype(np.float64)
    return float(np.linalg.norm(decoded - exact) / np.linalg.norm(exact))
