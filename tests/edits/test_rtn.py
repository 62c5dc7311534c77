"""The search for scales, the numbers a scale can be, and rounding to nearest."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize import _kernels
from steelyard.edits.quantize._grid import Grid
from steelyard.edits.quantize.rtn import RtnOptions, round_to_nearest
from steelyard.edits.quantize.statistics import Statistics

from .matrices import correlated

TYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=300, deadline=None)
@given(value=st.floats(1e-42, 1e39))
def test_scales_are_rounded_to_the_nearest_number_of_their_dtype(dtype: str, value: float) -> None:
    number = Grid.of(IntegerCodec(bits=4, scale_dtype=dtype), 16).number
    rounded = _kernels.to_scale(value, number)
    kind = TYPES[dtype]
    limits = ml_dtypes.finfo(kind)
    assert float(kind(rounded)) == rounded
    assert float(limits.smallest_subnormal) <= rounded <= float(limits.max)
    assert _kernels.to_scale(-value, number) == -rounded
    clipped = min(max(value, float(limits.smallest_subnormal)), float(limits.max))
    # Rounded through float32 the standard cast may be off by a hair; the distance may not.
    theirs = min(float(kind(np.float32(clipped))), float(limits.max))
    assert abs(rounded - clipped) <= abs(theirs - clipped) * (1 + 1e-12)


def loss(weight: np.ndarray, decoded: np.ndarray, importance: np.ndarray, size: int) -> np.ndarray:
    """Weighted squared error of every group."""
    terms = importance * (decoded.astype(np.float64) - weight) ** 2
    return np.add.reduceat(terms, np.arange(0, weight.shape[1], size), axis=1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.integers(2, 8),
    group=st.sampled_from([16, 32, 40, None]),
    symmetric=st.booleans(),
    scale_dtype=st.sampled_from(["BF16", "F16", "F32"]),
    weighted=st.booleans(),
    offset=st.sampled_from([0.0, 0.5, -3.0]),
)
def test_searched_scales_are_never_worse_than_extremes(
    seed, bits, group, symmetric, scale_dtype, weighted, offset
) -> None:
    codec = IntegerCodec(bits, group, symmetric, scale_dtype)
    draw = np.random.default_rng(seed)
    weight = (draw.standard_t(4, size=(9, 72)) + offset).astype(np.float32)
    importance = draw.lognormal(0, 1, 72) if weighted else np.ones(72)
    searched = round_to_nearest(weight, codec, Statistics(importance))
    plain = round_to_nearest(weight, codec, Statistics(importance), RtnOptions(search=False))
    size = group or 72
    best = loss(weight, searched.decode(), importance, size)
    tiny = 1e-6 * loss(weight, 0 * weight, importance, size)
    assert (best <= loss(weight, plain.decode(), importance, size) * (1 + 1e-5) + 1e-6 * tiny).all()
    peer = codec.decode(codec.encode(weight), weight.shape)
    assert best.sum() <= loss(weight, peer, importance, size).sum() * (1 + 1e-5)
    np.testing.assert_array_equal(codec.decode(searched.parts(), weight.shape), searched.decode())


@pytest.mark.parametrize(("bits", "slack"), [(2, 1.01), (3, 1.01), (4, 1.02), (5, 1.06)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_search_comes_close_to_every_scale_and_zero_point_tried_in_turn(
    bits: int, slack: float, symmetric: bool
) -> None:
    draw = np.random.default_rng(bits)
    weight = draw.normal(size=(16, 64))
    importance = draw.lognormal(0, 0.5, 64)
    codec = IntegerCodec(bits, 64, symmetric, "F32")
    low, high = codec.code_range
    found = round_to_nearest(weight, codec, Statistics(importance))
    ours = loss(weight, found.decode(), importance, 64)[:, 0]
    best = np.full(16, np.inf)
    reach = np.abs(weight).max(axis=1)
    for share in np.linspace(0.15, 1.2, 150):
        scale = (share * reach / (high if symmetric else (high - low) / 2))[:, None]
        for signed in (scale, -scale):
            for zero in (0,) if symmetric else range(low, high + 1):
                decoded = (np.clip(np.round(weight / signed + zero), low, high) - zero) * signed
                best = np.minimum(best, loss(weight, decoded, importance, 64)[:, 0])
    assert ours.mean() <= slack * best.mean()


def test_codes_are_nearest_under_the_scales_found() -> None:
    weight, _ = correlated(3, 20, 80)
    for symmetric in (True, False):
        codec = IntegerCodec(3, 32, symmetric)
        found = round_to_nearest(weight, codec)
        group = np.arange(80) // 32
        zero = 0 if found.zero is None else found.zero[:, group].astype(np.float64)
        exact = np.clip(np.round(weight.astype(np.float64) / found.scale[:, group] + zero), *codec.code_range)
        np.testing.assert_array_equal(found.codes, exact)


def test_half_precision_weights_are_taken_as_they_are() -> None:
    weight, _ = correlated(4, 8, 64)
    half = weight.astype(ml_dtypes.bfloat16)
    codec = IntegerCodec(4, 32)
    np.testing.assert_array_equal(
        round_to_nearest(half, codec).codes, round_to_nearest(half.astype(np.float32), codec).codes
    )


def test_weights_at_the_ends_of_the_range() -> None:
    for size in (1e-38, 3e38):
        weight = np.full((2, 32), size, np.float32)
        weight[1, ::2] *= -1
        for dtype in ("BF16", "F32"):
            decoded = round_to_nearest(weight, IntegerCodec(8, 32, True, dtype)).decode()
            np.testing.assert_allclose(decoded, weight, rtol=0.01)
