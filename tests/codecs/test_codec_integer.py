"""Grouped integers: scales, rounding and decoding against numpy in float64 and against compressed-tensors."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from codec_examples import FLOATS, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.codecs import IntegerCodec
from steelyard.codecs.base import numpy_type

SCALES = ("BF16", "F16", "F32")
VARIANTS = [
    IntegerCodec(bits, group, symmetric, scale)
    for bits, group, symmetric, scale in itertools.product(range(2, 9), (None, 16, 48), (True, False), SCALES)
]
codecs_ = st.sampled_from(VARIANTS)


def per_column(codec: IntegerCodec, grouped: np.ndarray, columns: int) -> np.ndarray:
    """Return [out, groups] repeated to [out, columns]."""
    return np.repeat(grouped, codec.group_size or columns, axis=1)[:, :columns]


def reference(codec: IntegerCodec, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (codes, scale, zero) by plain numpy, one group at a time."""
    bits, dtype = codec.bits, numpy_type(codec.scale_dtype)
    limits: Any = ml_dtypes.finfo(dtype)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    wide = weight.astype(np.float32)
    out, columns = wide.shape
    size = codec.group_size or columns
    codes = np.empty(wide.shape, np.int64)
    scales = np.empty((out, codec.groups(columns)), np.float32)
    zeros = np.zeros(scales.shape, np.int64)
    for i, g in np.ndindex(*scales.shape):
        group = wide[i, g * size : (g + 1) * size]
        top, bottom = max(group.max(), np.float32(0)), min(group.min(), np.float32(0))
        if codec.symmetric:
            scale = max(top, -bottom) / np.float32((2**bits - 1) / 2)
        else:
            scale = (top - bottom) / np.float32(2**bits - 1)
        scale = np.float32(dtype.type(min(scale, np.float32(limits.max))))
        scale = scale if scale > 0 else np.float32(limits.smallest_normal)
        zero = np.float32(0) if codec.symmetric else np.clip(np.rint(np.float32(low) - bottom / scale), low, high)
        with np.errstate(over="ignore"):
            codes[i, g * size : (g + 1) * size] = np.rint(np.clip(group / scale + zero, low, high))
        scales[i, g], zeros[i, g] = scale, zero
    return codes, scales, zeros


@settings(max_examples=120, deadline=None)
@given(
    codec=codecs_,
    dtype=st.sampled_from(FLOATS),
    rows=st.integers(1, 5),
    columns=st.integers(1, 130),
    exponent=st.integers(-30, 6),
    shift=st.sampled_from([0.0, 1.0, -3.0]),
    seed=st.integers(0, 99),
)
def test_encoding_is_numpys(
    codec: IntegerCodec, dtype: np.dtype, rows: int, columns: int, exponent: int, shift: float, seed: int
) -> None:
    weight = ((np.random.default_rng(seed).standard_normal((rows, columns)) + shift) * 2.0**exponent).astype(dtype)
    codes, scale, zero = codec.to_codes(codec.encode(weight), weight.shape)
    expected = reference(codec, weight)
    assert np.array_equal(scale, expected[1])
    assert np.array_equal(codes, expected[0])
    assert zero is None if codec.symmetric else np.array_equal(zero, expected[2])


@settings(max_examples=60, deadline=None)
@given(codec=codecs_, columns=st.integers(1, 130), exponent=st.integers(-5, 6), seed=st.integers(0, 99))
def test_decoded_values_are_within_half_a_step(codec: IntegerCodec, columns: int, exponent: int, seed: int) -> None:
    weight = (np.random.default_rng(seed).standard_normal((3, columns)) * 2.0**exponent).astype(np.float32)
    parts = codec.encode(weight)
    _, scale, zero = codec.to_codes(parts, weight.shape)
    step = per_column(codec, scale, columns).astype(np.float64)
    offset = 0 if zero is None else per_column(codec, zero, columns).astype(np.float64)
    low, high = codec.code_range
    # What lies beyond the outermost codes is clamped to them; the rest is rounded.
    inside = np.clip(weight.astype(np.float64), (low - offset) * step, (high - offset) * step)
    assert (np.abs(codec.decode(parts, weight.shape) - inside) <= step * (0.5 + 1e-4)).all()
    # The extremes set the scale, so no more than half a step and the rounding of the scale lies beyond.
    assert (np.abs(weight - inside) <= step * (0.5 + codec.levels * 2.0**-8)).all()


@settings(max_examples=60, deadline=None)
@given(codec=codecs_, columns=st.integers(1, 130), seed=st.integers(0, 99))
def test_decoded_values_keep_their_codes(codec: IntegerCodec, columns: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    low, high = codec.code_range
    codes = draw.integers(low, high + 1, (4, columns)).astype(np.int8)
    scale = codec.round_scale(draw.random((4, codec.groups(columns))) + 1e-3)
    zero = None if codec.symmetric else draw.integers(low, high + 1, scale.shape).astype(np.int8)
    decoded = codec.decode(codec.from_codes(codes, scale, zero), codes.shape)
    assert np.array_equal(codec.quantize_with(decoded, scale, zero), codes)


@pytest.mark.parametrize("codec", [c for c in VARIANTS if c.scale_dtype == "F32"], ids=lambda c: c.label)
def test_scales_zeros_and_codes_are_those_of_compressed_tensors(codec: IntegerCodec) -> None:
    torch = pytest.importorskip("torch")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    helpers = pytest.importorskip("compressed_tensors.quantization.utils.helpers")
    forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")
    weight = normal((24, 96))
    weight[3] = np.abs(weight[3])
    weight[4] = -np.abs(weight[4])
    arguments = quantization.QuantizationArgs(
        num_bits=codec.bits,
        symmetric=codec.symmetric,
        strategy="channel" if codec.group_size is None else "group",
        group_size=codec.group_size,
        zp_dtype=None if codec.symmetric else torch.int8,
    )
    grouped = torch.from_numpy(weight).reshape(24, codec.groups(96), -1)
    scale, zero = helpers.calculate_qparams(grouped.amin(-1), grouped.amax(-1), arguments)
    theirs = forward.quantize(torch.from_numpy(weight), scale, zero, arguments, dtype=torch.int8)
    codes, our_scale, our_zero = codec.to_codes(codec.encode(weight), weight.shape)
    assert np.array_equal(our_scale, scale.numpy())
    assert codec.symmetric or np.array_equal(our_zero, zero.numpy())
    assert np.array_equal(codes, theirs.numpy())


@pytest.mark.parametrize("codec", VARIANTS, ids=lambda c: c.label)
def test_compressed_tensors_decodes_our_parts(codec: IntegerCodec) -> None:
    torch = pytest.importorskip("torch")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    compressors = pytest.importorskip("compressed_tensors.compressors.pack_quantized.base")
    arguments = quantization.QuantizationArgs(
        num_bits=codec.bits,
        symmetric=codec.symmetric,
        strategy="channel" if codec.group_size is None else "group",
        group_size=codec.group_size,
    )
    weight = normal((40, 96), FLOATS[1])
    parts = codec.encode(weight)
    scale_type = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[codec.scale_dtype]
    state = {
        key: torch.from_numpy(part if part.dtype == np.int32 else part.astype(np.float32))
        for key, part in parts.items()
    }
    state["weight_scale"] = state["weight_scale"].to(scale_type)
    state["weight_shape"] = torch.tensor(weight.shape)
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=arguments)
    theirs = compressors.PackedQuantizationCompressor.decompress(state, scheme)["weight"]
    # They multiply in the type of the scale; ours is the exact product, which rounds to theirs.
    ours = torch.from_numpy(codec.decode(parts, weight.shape)).to(scale_type)
    assert torch.equal(ours, theirs)


def test_every_float16_is_read_exactly() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    weight = halves[np.isfinite(halves)].reshape(-1, 64)
    codec = IntegerCodec(8, 64, True, "F32")
    narrow, wide = codec.encode(weight), codec.encode(weight.astype(np.float32))
    assert all(np.array_equal(narrow[key], wide[key]) for key in wide)


@pytest.mark.parametrize("scale_dtype", SCALES)
def test_scales_are_rounded_as_their_type_rounds(scale_dtype: str) -> None:
    patterns = np.random.default_rng(0).integers(1, 0x7F000000, 20000).astype(np.uint32)
    ties = (np.arange(1, 0x7F00, dtype=np.uint32) << 16) | 0x8000
    half_ties = np.arange(0x33000000, 0x47800000, 0x1000, dtype=np.uint32)
    values = np.concatenate([patterns, ties, half_ties]).view(np.float32)
    values = values[values < 3e37]
    codec = IntegerCodec(2, 16, True, scale_dtype)
    weight = np.zeros((len(values), 16), np.float32)
    weight[:, 5] = -values
    _, scale, _ = codec.to_codes(codec.encode(weight), weight.shape)
    raw = values / np.float32(1.5)
    assert np.array_equal(scale[:, 0], codec.round_scale(raw))
    with np.errstate(over="ignore"):
        cast = raw.astype(numpy_type(scale_dtype)).astype(np.float32)
    kept = (cast > 0) & np.isfinite(cast)
    assert np.array_equal(scale[kept, 0], cast[kept])
    assert (scale > 0).all() and np.isfinite(scale).all()


def test_ties_go_to_the_even_code() -> None:
    codec = IntegerCodec(4, 16, True, "F32")
    weight = np.zeros((1, 16), np.float32)
    weight[0, :8] = [-7.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 7.5]
    codes, scale, _ = codec.to_codes(codec.encode(weight), weight.shape)
    assert scale[0, 0] == 1 and codes[0, :8].tolist() == [-8, -2, -2, 0, 0, 2, 2, 7]
    shifted = IntegerCodec(4, 16, False, "F32").quantize_with(
        weight, np.ones((1, 1), np.float32), np.ones((1, 1), np.int8)
    )
    assert shifted[0, :8].tolist() == [-6, -2, 0, 0, 2, 2, 4, 7]


@pytest.mark.parametrize("codec", VARIANTS, ids=lambda c: c.label)
def test_zeros_and_negative_zeros_come_back_as_zeros(codec: IntegerCodec) -> None:
    weight = np.zeros((3, 50), np.float32)
    weight[1] = -0.0
    weight[2, 20:] = normal((30,))
    parts = codec.encode(weight)
    decoded = codec.decode(parts, weight.shape)
    assert (decoded[:2] == 0).all() and (decoded[2, :16] == 0).all()
    assert np.isfinite(parts["weight_scale"].astype(np.float32)).all()


@pytest.mark.parametrize("codec", VARIANTS, ids=lambda c: c.label)
def test_huge_and_tiny_floats_stay_finite(codec: IntegerCodec) -> None:
    weight = np.zeros((2, 64), np.float32)
    weight[0, 0], weight[0, 1] = 1.6e38, -1.5e38
    weight[1] = 1e-45
    decoded = codec.decode(codec.encode(weight), weight.shape)
    assert np.isfinite(decoded).all()
    assert (np.abs(decoded[1]) <= 2.0**-14).all()


def test_known_sizes() -> None:
    # The example of the format's description: 3 bits, 512 columns, 48 words a row.
    assert IntegerCodec(3, 128).parts((10, 512))["weight_packed"] == ("I32", (10, 48))
    assert IntegerCodec(4, 64, False, "F16").parts((40, 200)) == {
        "weight_packed": ("I32", (40, 25)),
        "weight_scale": ("F16", (40, 4)),
        "weight_zero_point": ("I32", (5, 4)),
    }
    assert IntegerCodec(4, 64).nbytes((128, 512)) == 128 * 512 // 2 + 128 * 8 * 2
    assert IntegerCodec(4).levels == 16 and IntegerCodec(4).code_range == (-8, 7)
