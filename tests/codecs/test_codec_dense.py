"""Dense codecs against torch's casts and compressed-tensors' float8."""

from __future__ import annotations

import math

import numpy as np
import pytest
from codec_examples import FLOATS, normal

from steelyard.codecs import DenseCodec
from steelyard.errors import UserError


def test_every_float16_and_bfloat16_is_kept() -> None:
    for codec, dtype in ((DenseCodec("F16"), FLOATS[2]), (DenseCodec("BF16"), FLOATS[1])):
        weight = np.arange(1 << 16, dtype=np.uint16).view(dtype)
        with np.errstate(invalid="ignore"):
            weight = weight[np.isfinite(weight)].reshape(-1, 2)
        for given in (weight, weight.astype(np.float32)):
            parts = codec.encode(given)
            assert parts["weight"].tobytes() == weight.tobytes()
            assert np.array_equal(codec.decode(parts, weight.shape), weight.astype(np.float32))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_casts_are_torchs(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    bits = np.random.default_rng(0).integers(0, 0x47000000, 40000).astype(np.uint32)
    bits = np.concatenate([bits, (bits & np.uint32(0xFFFF0000)) | 0x8000, (bits & np.uint32(0xFFFFE000)) | 0x1000])
    weight = bits.view(np.float32).reshape(-1, 8)
    ours = DenseCodec(dtype).encode(weight)["weight"]
    theirs = torch.from_numpy(weight).to({"BF16": torch.bfloat16, "F16": torch.float16}[dtype])
    assert ours.view(np.uint16).tobytes() == theirs.view(torch.uint16).numpy().tobytes()


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (0, 4)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    weight = normal(shape) if shape else np.float32(0.5) * np.ones((), np.float32)
    codec = DenseCodec("BF16")
    parts = codec.encode(weight)
    assert parts["weight"].shape == shape and parts["weight"].nbytes == codec.nbytes(shape) == 2 * math.prod(shape)
    assert codec.decode(parts, shape).shape == shape


def test_values_beyond_the_type_are_named() -> None:
    weight = normal((40, 30), FLOATS[1])
    weight[33, 4] = 70000
    with pytest.raises(UserError, match=r"embed holds 70144 at \[33, 4\], beyond float16"):
        DenseCodec("F16").encode(weight, "embed")
    with pytest.raises(UserError, match=r"at \[133, 4\]"):
        DenseCodec("F16").encode_rows(weight, "embed", first_row=100)
    with pytest.raises(UserError, match="beyond bfloat16"):
        DenseCodec("BF16").encode(np.full((1, 1), 3.4028235e38, np.float32))


def test_float8_is_that_of_compressed_tensors() -> None:
    torch = pytest.importorskip("torch")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    helpers = pytest.importorskip("compressed_tensors.quantization.utils.helpers")
    compressors = pytest.importorskip("compressed_tensors.compressors.naive_quantized.base")
    weight = normal((24, 96))
    weight[5] *= 1e4
    arguments = quantization.QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="channel")
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=arguments)
    tensor = torch.from_numpy(weight)
    scale, _ = helpers.calculate_qparams(tensor.amin(1, keepdim=True), tensor.amax(1, keepdim=True), arguments)
    state = {"weight": tensor, "weight_scale": scale}
    theirs = compressors.FloatQuantizationCompressor.compress(state, scheme)
    parts = DenseCodec("F8_E4M3").encode(weight)
    assert np.array_equal(parts["weight_scale"], theirs["weight_scale"].numpy())
    assert parts["weight"].tobytes() == theirs["weight"].view(torch.uint8).numpy().tobytes()
    decoded = compressors.FloatQuantizationCompressor.decompress(theirs, scheme)["weight"]
    assert np.array_equal(DenseCodec("F8_E4M3").decode(parts, weight.shape), decoded.numpy())


def test_float8_errors_are_those_of_three_bits_of_fraction() -> None:
    weight = normal((16, 200))
    weight[3] = 0
    codec = DenseCodec("F8_E4M3")
    parts = codec.encode(weight)
    lost = np.abs(codec.decode(parts, weight.shape) - weight)
    # Half a unit of the last place: 2**-4 of the value, or of the smallest normal, 2**-6 of a scale.
    assert (lost <= np.maximum(np.abs(weight) * 2.0**-4, parts["weight_scale"] * 2.0**-10) * 1.0001).all()
    assert np.abs(parts["weight"].astype(np.float32)).max() == 448
