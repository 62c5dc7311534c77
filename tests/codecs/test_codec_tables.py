"""k-bit data types, 8-bit and 4-bit floats and trits against computations of their own."""

from __future__ import annotations

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from codec_examples import normal, relative

from steelyard.codecs import (
    BlockwiseCodec,
    Float8Codec,
    IntegerCodec,
    MicroscalingCodec,
    Nvfp4Codec,
    PermutedCodec,
    TernaryCodec,
    from_dict,
    tables,
)
from steelyard.codecs.blockwise import pack_high_first, unpack_high_first
from steelyard.codecs.ternary import best_scale, pack_trits, unpack_trits
from steelyard.errors import UserError


def test_normal_floats_are_quantiles_and_the_published_ones() -> None:
    four = tables.table("nf", 4)
    assert four[7] == 0 and four[0] == -1 and four[15] == 1
    assert f"{four[8]:.7f} {four[14]:.7f} {four[1]:.7f}" == "0.0795803 0.7229568 -0.6961928"
    for bits in range(2, 9):
        values = tables.table("nf", bits).astype(np.float64)
        assert len(np.unique(values)) == 1 << bits and values.min() == -1 and values.max() == 1 and 0 in values
    # Halves of the normal distribution, cut into parts of equal probability.
    five = tables.table("nf", 5).astype(np.float64)
    end = 1 - (1 / 64 + 1 / 62) / 2
    largest = math.sqrt(2) * _inverse_erf(2 * end - 1)
    chances = [(1 + math.erf(value * largest / math.sqrt(2))) / 2 for value in five]
    steps = np.diff(chances)
    assert np.allclose(steps[:15], steps[0], atol=1e-6) and np.allclose(steps[15:], steps[-1], atol=1e-6)


def _inverse_erf(value: float) -> float:
    low, high = 0.0, 6.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle) < value else (low, middle)
    return low


def test_small_floats_are_those_of_ml_dtypes() -> None:
    codes = np.arange(16, dtype=np.uint8)
    assert np.array_equal(tables.e2m1(), codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32))
    assert np.array_equal(tables.table("float", 4), tables.e2m1() / 6)
    six = np.arange(64, dtype=np.uint8).view(ml_dtypes.float6_e3m2fn).astype(np.float32)
    assert np.array_equal(tables.table("float", 6), six / six.max())


def test_dynamic_exponents_count_their_zeros() -> None:
    """Read as bits: sign, zeros, a one, and a fraction that begins at a tenth of the power of ten."""
    values = np.sort(np.abs(tables.table("dynamic", 8)))
    assert len(np.unique(tables.table("dynamic", 8))) == 256
    for zeros in range(7):
        count = 64 >> zeros
        steps = (np.arange(count) + 0.5) / count * 0.9 + 0.1
        expected = steps * 10.0**-zeros
        for value in expected:
            assert np.abs(values - value).min() < 1e-6 * 10.0**-zeros


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_lie_from_the_highest_bit_down(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, 77).astype(np.uint8)
    text = "".join(format(code, f"0{bits}b") for code in codes)
    text += "0" * (-len(text) % 8)
    packed = pack_high_first(codes, bits)
    assert packed.tobytes() == bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    assert np.array_equal(unpack_high_first(packed, bits, 77), codes)


@pytest.mark.parametrize(("kind", "bits"), [("nf", 4), ("fp4", 4), ("dynamic", 8), ("float", 5), ("nf", 3)])
def test_every_element_gets_the_nearest_entry(kind: str, bits: int) -> None:
    weight = normal((7, 90))
    codec = BlockwiseCodec(kind, bits, 32)
    decoded = codec.decode(codec.encode(weight), weight.shape).reshape(-1)
    values = tables.table(kind, bits).astype(np.float64)
    for start in range(0, weight.size, 32):
        block = weight.reshape(-1)[start : start + 32].astype(np.float64)
        grid = values * np.abs(block).max()
        best = np.abs(block[:, None] - grid).min(axis=1)
        assert np.allclose(np.abs(decoded[start : start + 32] - block), best, atol=1e-8)


def test_double_quantized_scales_take_4_127_bits() -> None:
    shape = (4096, 4096)
    assert BlockwiseCodec("nf", 4, 64).bits_per_weight(shape) == 4.5
    double = BlockwiseCodec("nf", 4, 64, double=True).bits_per_weight(shape)
    assert round(double, 3) == 4.127 and double == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-5)
    weight = normal((256, 256))
    single, both = BlockwiseCodec(), BlockwiseCodec(double=True)
    errors = [relative(codec.decode(codec.encode(weight), weight.shape), weight) for codec in (single, both)]
    assert errors[0] < errors[1] * 1.002 and errors[1] < errors[0] * 1.01


def test_more_bits_lose_less_and_normal_floats_suit_normal_weights() -> None:
    weight = normal((64, 256))
    lost = {
        (kind, bits): relative(
            BlockwiseCodec(kind, bits, 64).decode(BlockwiseCodec(kind, bits, 64).encode(weight), weight.shape),
            weight,
        )
        for kind, bits in itertools.product(("nf", "float"), range(2, 9))
    }
    for kind in ("nf", "float"):
        widths = [lost[kind, bits] for bits in range(2, 9)]
        assert all(a > b for a, b in itertools.pairwise(widths))
    assert lost["nf", 4] < lost["float", 4]


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize(("rows", "columns"), [(None, None), (1, None), (16, 24), (None, 32)])
def test_8_bit_floats_by_blocks(dtype: str, rows: int | None, columns: int | None) -> None:
    weight = normal((40, 100)) * np.exp(np.random.default_rng(1).standard_normal((40, 1))).astype(np.float32)
    codec = Float8Codec(dtype, rows, columns)
    parts = codec.encode(weight)
    kind = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}[dtype]
    largest = float(ml_dtypes.finfo(kind).max)
    height, width = rows or 40, columns or 100
    expected = np.empty((40, 100))
    for i in range(0, 40, height):
        for j in range(0, 100, width):
            block = weight[i : i + height, j : j + width]
            scale = np.float32(np.abs(block).max() / np.float32(largest))
            assert parts["weight_scale"][i // height, j // width] == scale
            expected[i : i + height, j : j + width] = (block / scale).astype(kind).astype(np.float64) * float(scale)
    assert np.allclose(codec.decode(parts, weight.shape), expected, rtol=1e-6, atol=0)


def test_powers_of_two_for_scales_cut_nothing_off() -> None:
    weight = normal((64, 64))
    codec = Float8Codec("F8_E4M3", 16, 16, "F8_E8M0")
    scale = codec.encode(weight)["weight_scale"].astype(np.float64)
    blocks = np.abs(weight).reshape(4, 16, 4, 16).max(axis=(1, 3))
    assert np.array_equal(np.log2(scale), np.ceil(np.log2(blocks / 448)))


def test_microscaling_loses_no_more_than_the_standards_scale() -> None:
    weight = normal((32, 128))
    codec = MicroscalingCodec()
    parts = codec.encode(weight)
    decoded = codec.decode(parts, weight.shape)
    groups = weight.reshape(32, 4, 32)
    standard = np.exp2(np.floor(np.log2(np.abs(groups).max(axis=2))) - 2)[:, :, None]
    rounded = np.clip(groups / standard, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * standard
    lost = np.square(decoded.reshape(groups.shape) - groups).sum(axis=2)
    assert (lost <= np.square(rounded - groups).sum(axis=2) * (1 + 1e-5)).all()
    # Read by hand: the first of each pair is in the low half, and the exponent has a bias of 127.
    low = (parts["weight_packed"] & 15).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    scale = 2.0 ** (parts["weight_scale"].astype(np.float64) - 127)
    assert np.array_equal(decoded[:, 0::2], low * np.repeat(scale, 16, axis=1))
    assert codec.bits_per_weight((64, 128)) == 4.25


def test_nvfp4_is_element_times_scale_over_global_scale() -> None:
    weight = normal((32, 64))
    codec = Nvfp4Codec()
    parts = codec.encode(weight)
    codes = np.stack([parts["weight_packed"] & 15, parts["weight_packed"] >> 4], axis=-1).reshape(32, 64)
    scale = parts["weight_scale"].astype(np.float32) / parts["weight_global_scale"]
    expected = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32) * np.repeat(scale, 16, axis=1)
    decoded = codec.decode(parts, weight.shape)
    assert np.array_equal(decoded, expected)
    assert relative(decoded, weight) < 0.1
    assert codec.nbytes((32, 64)) == 32 * 32 + 32 * 4 + 4


def test_trits_are_numbers_to_base_three() -> None:
    trits = np.random.default_rng(0).integers(-1, 2, (3, 13)).astype(np.int8)
    packed = pack_trits(trits)
    for row, line in zip(trits, packed, strict=True):
        for byte, start in zip(line, range(0, 13, 5), strict=True):
            assert int(byte) == sum((int(t) + 1) * 3**i for i, t in enumerate(row[start : start + 5]))
    assert np.array_equal(unpack_trits(packed, 13), trits)
    assert TernaryCodec(None, None).nbytes((64, 640)) == 64 * 128 + 2


def test_no_ternary_scale_is_better() -> None:
    block = normal((4, 9)).astype(np.float64)
    lost = {
        sum(abs(v - scale * round(max(-1, min(1, v / scale)))) ** 2 for v in block.reshape(-1)): scale
        for scale in np.linspace(1e-4, np.abs(block).max(), 4000)
    }
    found = best_scale(block.astype(np.float32))
    mine = sum(abs(v - found * round(max(-1, min(1, v / found)))) ** 2 for v in block.reshape(-1))
    assert mine <= min(lost) * (1 + 1e-6)


def test_permuted_groups_are_those_of_the_order() -> None:
    weight = normal((8, 64))
    base = IntegerCodec(4, 16, False)
    codec = PermutedCodec(base)
    parts = codec.encode(weight)
    order = parts["column_order"].reshape(-1)
    assert sorted(order) == list(range(64))
    inner = base.encode(np.ascontiguousarray(weight[:, order]))
    assert np.array_equal(codec.decode(parts, (8, 64))[:, order], base.decode(inner, (8, 64)))
    with pytest.raises(UserError, match="every column once"):
        codec.decode({**parts, "column_order": np.zeros((1, 64), np.int32)}, (8, 64))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "blockwise", "kind": "nf5"}, "nf, float"),
        ({"name": "blockwise", "kind": "fp4", "bits": 8}, "fp4 has 4"),
        ({"name": "blockwise", "block": 8}, "16 to 4096"),
        ({"name": "float8", "dtype": "F16"}, "F8_E4M3"),
        ({"name": "float8", "rows": 0}, "at least 1"),
        ({"name": "float8", "scale_dtype": "I8"}, "scale_dtype"),
        ({"name": "microscaling", "element": "F16"}, "element"),
        ({"name": "microscaling", "group_size": 4}, "8 to 256"),
        ({"name": "nvfp4", "group_size": 4}, "8 to 256"),
        ({"name": "ternary", "columns": -1}, "at least 1"),
        ({"name": "ternary", "scale_dtype": "I8"}, "scale_dtype"),
        ({"name": "permuted", "base": {"name": "dense"}}, "integer codec"),
    ],
)
def test_mistakes_are_explained(data: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict(data)
