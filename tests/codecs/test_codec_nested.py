"""Codecs that begin with their smaller selves: nested codes and chains of signs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from codec_examples import EXAMPLES, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.codecs import AnyPrecisionCodec, NestedCodec, SignChainCodec, blob, from_dict
from steelyard.errors import UserError
from steelyard.formats.independent import blob_rows

NESTED = [codec for name in ("any_precision", "sign_chain") for codec in EXAMPLES[name]]


@pytest.mark.parametrize("codec", NESTED, ids=lambda codec: codec.label)
def test_the_bytes_of_a_level_are_the_first_of_the_next(codec: NestedCodec) -> None:
    weight = normal((40, 70))
    parts = codec.encode(weight)
    whole = blob(parts, codec, weight.shape).tobytes()
    assert [level.level for level in codec.levels] == list(range(codec.lowest, codec.level + 1))
    losses = []
    for level in codec.levels:
        data = blob(level.first_parts(parts, weight.shape), level, weight.shape)
        assert whole.startswith(data.tobytes())
        decoded = level.decode(level.first_parts(parts, weight.shape), weight.shape)
        assert np.allclose(decoded, blob_rows(data, level, weight.shape)(0, 40), rtol=1e-5, atol=1e-8)
        losses.append(float(((decoded - weight) ** 2).sum()))
    assert losses == sorted(losses, reverse=True)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.integers(-50, 50), min_size=1, max_size=9),
    costs=st.lists(st.integers(0, 5), min_size=9, max_size=9),
)
def test_the_seed_is_the_best_of_all_clusterings(values: list[int], costs: list[int]) -> None:
    row = np.array(values, np.float32)
    cost = np.array(costs[: len(row)], np.float64)
    cost = cost if cost.any() else np.ones(len(row))
    codec = AnyPrecisionCodec(2, 2, dtype="F32")
    found = codec.decode(codec.cluster(row[None], cost), (1, len(row)))[0]
    order = np.argsort(row)
    best = math.inf
    for cuts in itertools.combinations_with_replacement(range(len(row) + 1), 3):
        total = 0.0
        for low, high in itertools.pairwise((0, *cuts, len(row))):
            members, weights = row[order[low:high]], cost[order[low:high]]
            if weights.any():
                mean = np.average(members, weights=weights)
                total += float((weights * (members - mean) ** 2).sum())
        best = min(best, total)
    assert float((cost * (found - row) ** 2).sum()) == pytest.approx(best, abs=1e-4)


def test_codes_nest_and_tables_are_the_means_of_their_weights() -> None:
    weight = normal((6, 300), spread=1.0)
    cost = np.random.default_rng(1).random(300) + 0.1
    codec = AnyPrecisionCodec(6, 3, dtype="F32")
    parts = codec.cluster(weight, cost)
    codes = codec.codes(parts, weight.shape)
    for level in codec.levels:
        cut = level.first_parts(parts, weight.shape)
        assert np.array_equal(level.codes(cut, weight.shape), codes >> (6 - level.bits))
        for row, entry in itertools.product(range(6), range(1 << level.bits)):
            members = codes[row] >> (6 - level.bits) == entry
            if members.any():
                mean = np.average(weight[row, members], weights=cost[members])
                assert parts[f"table{level.bits}"][row, entry] == pytest.approx(mean, rel=1e-5)


def test_rows_of_one_shape_and_several_scales_share_tables() -> None:
    base = normal((1, 512), spread=1.0)
    weight = base * np.array([[1.0], [8.0], [0.25], [64.0]], np.float32)
    codec = AnyPrecisionCodec(4, 4, 4, "F32")
    parts = codec.encode(weight)
    assert parts["table4"].shape == (1, 16)
    alone = AnyPrecisionCodec(4, 4, 1, "F32")
    first = alone.decode(alone.encode(base), base.shape)
    assert np.allclose(codec.decode(parts, weight.shape), first * weight[:, :1] / base[0, 0], rtol=1e-4)


def test_published_sizes() -> None:
    """BitStack's blocks, and the tables of Any-Precision LLM, which come to a quarter of its planes at 4096."""
    shapes = {(4096, 4096): 2_359_296, (1024, 4096): 688_128, (14336, 4096): 7_929_856}
    for shape, size in shapes.items():
        assert SignChainCodec(1, 16).nbytes(shape) == size == shape[0] * shape[1] // 8 + 2 * 16 * sum(shape)
        assert SignChainCodec(16, 16).nbytes(shape) == 16 * size
    layer = [(4096, 4096)] * 2 + [(1024, 4096)] * 2 + [(14336, 4096)] * 2 + [(4096, 14336)]
    level = 32 * sum(SignChainCodec(1, 16).nbytes(shape) for shape in layer)
    assert level == 912 * 2**20  # of Llama-3.1-8B
    planes, tables = 4096 * 4096, 4096 * 1008
    assert AnyPrecisionCodec(8, 3).nbytes((4096, 4096)) == planes + tables
    assert AnyPrecisionCodec(6, 3).bits_per_weight((4096, 4096)) == pytest.approx(6.47, abs=0.005)


def test_energies_left_of_gaussian_numbers() -> None:
    weight = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    codec = SignChainCodec(3, 16)
    parts = codec.encode(weight)
    left = []
    for level in codec.levels:
        miss = weight - level.decode(level.first_parts(parts, weight.shape), weight.shape)
        left.append(float((miss**2).mean()))
    assert left == pytest.approx([0.343, 0.117, 0.048], abs=0.0006)


def test_large_matrices_lose_hardly_more_by_repeated_products(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal((150, 90), spread=1.0) * np.linspace(0.2, 2, 90, dtype=np.float32)
    codec = SignChainCodec(3, 4)
    exact = codec.decode(codec.encode(weight), weight.shape)
    monkeypatch.setattr("steelyard.codecs.sign_chain._EXACT", 8)
    near = codec.decode(codec.encode(weight), weight.shape)
    assert np.linalg.norm(near - weight) < 1.01 * np.linalg.norm(exact - weight)


def test_importance_is_heeded() -> None:
    weight = normal((96, 128), spread=1.0)
    cost = np.geomspace(0.01, 100, 128)
    for codec in (SignChainCodec(2, 4), AnyPrecisionCodec(3, 3)):
        weighed = codec.chain(weight, cost) if isinstance(codec, SignChainCodec) else codec.cluster(weight, cost)
        losses = [
            float((((codec.decode(parts, weight.shape) - weight) ** 2) @ cost).sum())
            for parts in (weighed, codec.encode(weight))
        ]
        assert losses[0] < 0.9 * losses[1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "any_precision", "bits": 9}, "1 to 8 bits"),
        ({"name": "any_precision", "bits": 3, "seed_bits": 4}, "4 to 3"),
        ({"name": "any_precision", "rows": 0}, "not 0"),
        ({"name": "any_precision", "dtype": "I8"}, "I8"),
        ({"name": "sign_chain", "blocks": 0}, "blocks is a whole number"),
        ({"name": "sign_chain", "rank": True}, "rank is a whole number"),
        ({"name": "sign_chain", "dtype": "F8_E4M3"}, "F16, BF16, F32"),
    ],
)
def test_mistakes_are_explained(data: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict(data)
    with pytest.raises(UserError, match="above the smaller side"):
        SignChainCodec(1, 9).nbytes((8, 100))
    with pytest.raises(UserError, match="3 to 2"):
        AnyPrecisionCodec(8, 3).at(2)
