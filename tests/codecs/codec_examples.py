"""One or more examples of every codec, and matrices to try them on."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from steelyard.codecs import (
    AnyPrecisionCodec,
    BlockwiseCodec,
    CodebookCodec,
    Codec,
    DenseCodec,
    EntropyCodec,
    Float8Codec,
    GridCodec,
    IntegerCodec,
    LowRankCodec,
    MicroscalingCodec,
    Nvfp4Codec,
    OutlierCodec,
    PermutedCodec,
    PowerCodec,
    RotatedCodec,
    SignChainCodec,
    SumCodec,
    TernaryCodec,
)
from steelyard.codecs.gguf import GgufCodec

EXAMPLES: Mapping[str, tuple[Codec, ...]] = {
    "any_precision": (
        AnyPrecisionCodec(8, 3),
        AnyPrecisionCodec(4, 4, dtype="BF16"),
        AnyPrecisionCodec(5, 1, 16, "F32"),
        AnyPrecisionCodec(6, 2, None),
    ),
    "blockwise": (
        BlockwiseCodec("nf", 4, 64),
        BlockwiseCodec("fp4", 4, 128, double=True),
        BlockwiseCodec("dynamic", 5, 100),
        BlockwiseCodec("float", 3, 32, double=True),
        BlockwiseCodec("int", 6, 16),
        BlockwiseCodec("quantile", 3, 1024, double=True),
    ),
    "codebook": (
        CodebookCodec(1, 4, 4),
        CodebookCodec(2, 5, 8, "F32", "F8_E4M3"),
        CodebookCodec(3, 3, 7, "F16", "BF16"),
    ),
    "dense": tuple(DenseCodec(dtype) for dtype in ("F32", "BF16", "F16", "F8_E4M3")),
    "entropy": (
        EntropyCodec(IntegerCodec(4, 64, True)),
        EntropyCodec(IntegerCodec(3, 24, False, "F16")),
        EntropyCodec(GridCodec(0.7)),
    ),
    "float8": (
        Float8Codec("F8_E4M3", None, None),
        Float8Codec("F8_E5M2", 1, None, "BF16"),
        Float8Codec("F8_E4M3", 32, 24),
        Float8Codec("F8_E4M3", 16, None, "F8_E8M0"),
    ),
    "gguf": tuple(GgufCodec(kind) for kind in ("Q5_1", "Q8_0", "Q3_K", "Q4_K", "IQ4_NL", "MXFP4")),
    "grid": (GridCodec(0.5),),
    "integer": (
        IntegerCodec(1, 32, True, "F32"),
        IntegerCodec(1, 64, False),
        IntegerCodec(4, 64, True),
        IntegerCodec(2, 16, False),
        IntegerCodec(3, 24, False, "F16"),
        IntegerCodec(5, None, False, "F32"),
        IntegerCodec(8, None, True, "F16"),
    ),
    "low_rank": (LowRankCodec(4), LowRankCodec(1, "F32"), LowRankCodec(7, "F16")),
    "microscaling": (
        MicroscalingCodec("F4_E2M1"),
        MicroscalingCodec("F8_E4M3"),
        MicroscalingCodec("F8_E5M2", 24),
    ),
    "nvfp4": (Nvfp4Codec(),),
    "outliers": (
        OutlierCodec(IntegerCodec(3, 24, False, "F32"), 3),
        OutlierCodec(BlockwiseCodec("nf", 4, 64), 1, "F32"),
    ),
    "permuted": (PermutedCodec(IntegerCodec(4, 32, False)),),
    "sign_chain": (SignChainCodec(3, 4), SignChainCodec(1, 1, "F32"), SignChainCodec(2, 8, "BF16")),
    "power": (PowerCodec(), PowerCodec(3, None, 1.5, "F32"), PowerCodec(8, 1024, None, "F16")),
    "rotated": (RotatedCodec(IntegerCodec(3, 24, False, "F32"), 8, "F32"),),
    "sum": (SumCodec(IntegerCodec(3, 32, False), LowRankCodec(3, "F16")),),
    "ternary": (TernaryCodec(), TernaryCodec(None, None, "F32"), TernaryCodec(32, 64)),
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
