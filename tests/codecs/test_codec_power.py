"""Power codes: exponent 1, the search, and products of integers; quantile and integer tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from codec_examples import normal, relative

from steelyard.codecs import BlockwiseCodec, IntegerCodec, PowerCodec, tables
from steelyard.codecs.power import integer_product, levels, product_table
from steelyard.errors import UserError


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group", [None, 32])
def test_exponent_one_is_the_uniform_grid(bits: int, group: int | None) -> None:
    weight = normal((20, 96), seed=bits)
    power, uniform = PowerCodec(bits, group, 1.0), IntegerCodec(bits, group)
    mine, plain = power.encode(weight), uniform.encode(weight)
    for part in plain:
        assert mine[part].tobytes() == plain[part].tobytes()
    np.testing.assert_array_equal(power.decode(mine, weight.shape), uniform.decode(plain, weight.shape))
    assert power.nbytes(weight.shape) == uniform.nbytes(weight.shape) + 4


@pytest.mark.parametrize("exponent", [0.5, 1.37, 2.0])
def test_decoding_and_the_nearest_level(exponent: float) -> None:
    codec, weight = PowerCodec(3, 16, exponent, "F32"), normal((4, 40), seed=1)
    parts = codec.encode(weight)
    codes, scale, stored = codec.to_codes(parts, weight.shape)
    assert stored == np.float32(exponent)
    decoded = codec.decode(parts, weight.shape)
    for i, j in np.ndindex(*weight.shape):
        factor = float(scale[i, j // 16])
        choices = [math.copysign(abs(n) ** float(np.float32(exponent)), n) * factor for n in range(-4, 4)]
        assert decoded[i, j] == pytest.approx(choices[codes[i, j] + 4], rel=1e-6, abs=1e-12)
        best = min(abs(choice - float(weight[i, j])) for choice in choices)
        assert abs(float(decoded[i, j]) - float(weight[i, j])) <= best * 1.00001 + 1e-9


@pytest.mark.parametrize("bits", [3, 4])
def test_the_search_finds_the_best_of_the_grid(bits: int) -> None:
    weight = normal((48, 64), seed=5)
    codec = PowerCodec(bits, None)
    found = float(codec.encode(weight)["exponent"][0, 0])

    def lost(exponent: float) -> float:
        fixed = PowerCodec(bits, None, exponent)
        return relative(fixed.decode(fixed.encode(weight), weight.shape), weight)

    grid = np.arange(0.25, 4 + 1 / 128, 1 / 64)
    losses = [lost(float(exponent)) for exponent in grid]
    # The loss is nearly, not exactly, convex: rounding makes small waves.
    assert lost(found) <= min(losses) * 1.01
    assert 1 < found < 2 and lost(found) < 0.95 * lost(1.0)


def test_a_power_of_a_product_is_the_product_of_powers_with_integers_alone() -> None:
    generator = np.random.default_rng(0)
    x, w = generator.integers(-8, 8, (5, 30)).astype(np.int8), generator.integers(-8, 8, (7, 30)).astype(np.int8)
    exponent, fraction = 1.375, 20
    table = product_table(64, exponent, fraction)
    assert table.dtype == np.int64 and len(table) == 65
    product = integer_product(x, w, table)
    assert product.dtype == np.int64
    value = levels(4, exponent).astype(np.float64)
    for first, second in ((x[0, 0], w[0, 0]), (-8, 7), (0, 5)):  # one by one, from the definition
        both = math.copysign(abs(int(first) * int(second)) ** exponent, int(first) * int(second))
        assert value[first + 8] * value[second + 8] == pytest.approx(both, rel=1e-6)
    exact = value[x.astype(int) + 8] @ value[w.astype(int) + 8].T
    # Half a unit of the table for each term, and the last bits of float32 levels.
    assert np.abs(product / 2.0**fraction - exact).max() <= 30 * (0.5 / 2**fraction + 64**exponent * 2**-23)


def test_exponents_that_are_none_are_refused() -> None:
    for wrong in ({"exponent": 5}, {"bits": 1}, {"group_size": 8}, {"scale_dtype": "F64"}):
        with pytest.raises(UserError):
            PowerCodec(**wrong)  # type: ignore[arg-type]
    codec = PowerCodec(4, 32)
    parts = codec.encode(normal((4, 32)))
    parts["exponent"][0, 0] = np.nan
    with pytest.raises(UserError, match="stored is nan"):
        codec.decode(parts, (4, 32))


@pytest.mark.parametrize("bits", range(3, 9))
def test_k_bit_types_are_what_the_paper_has(bits: int) -> None:
    whole = tables.table("int", bits)
    assert len(whole) == 2**bits
    np.testing.assert_allclose(np.unique(whole), np.linspace(-1, 1, 2**bits - 1), atol=1e-7)
    weight = normal((64, 256), seed=bits)
    codec = BlockwiseCodec("quantile", bits, 4096)
    parts = codec.encode(weight)
    assert codec.nbytes(weight.shape) == weight.size * bits // 8 + 4 * 4 + 4 * 2**bits
    codes = np.unpackbits(parts["weight_packed"]).reshape(-1, bits) @ (1 << np.arange(bits)[::-1])
    used = np.bincount(codes, minlength=2**bits) / len(codes)
    # Used equally often, but for the ends, whose entries lie far out.
    assert used[2:-2].max() / used[2:-2].min() < 2.2
    np.testing.assert_array_equal(parts["table"], np.sort(parts["table"]))


@pytest.mark.parametrize("kind", ["nf", "float", "dynamic", "int", "quantile"])
def test_more_bits_and_smaller_blocks_lose_less(kind: str) -> None:
    weight = normal((32, 1024), seed=9)
    by_bits = [
        relative((c := BlockwiseCodec(kind, b, 64)).decode(c.encode(weight), weight.shape), weight)
        for b in range(3, 9)
    ]
    assert by_bits == sorted(by_bits, reverse=True)
    if kind != "dynamic":  # which spends most codes near zero
        small, large = (BlockwiseCodec(kind, 4, block) for block in (16, 1024))
        assert relative(small.decode(small.encode(weight), weight.shape), weight) < relative(
            large.decode(large.encode(weight), weight.shape), weight
        )
