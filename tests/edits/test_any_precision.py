"""Nested codes and chains of signs under the statistics of their inputs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from steelyard.codecs import AnyPrecisionCodec, IntegerCodec, SignChainCodec
from steelyard.edits.quantize.any_precision import AnyPrecisionOptions, any_precision
from steelyard.edits.quantize.error import error
from steelyard.edits.quantize.sign_chain import SignChainOptions, sign_chain
from steelyard.edits.quantize.statistics import Statistics
from steelyard.errors import UserError


def inputs(columns: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A matrix, and the second moment of inputs that go together."""
    rng = np.random.default_rng(3)
    mixing = rng.standard_normal((columns, columns)) * np.geomspace(0.05, 2, columns)
    return rng.standard_normal((24, columns)).astype(np.float32), mixing @ mixing.T / columns


def losses(
    codec: AnyPrecisionCodec, weight: np.ndarray, parts: dict[str, np.ndarray], moment: np.ndarray
) -> list[float]:
    return [
        error(weight, level.decode(level.first_parts(parts, weight.shape), weight.shape), moment)
        for level in codec.levels
    ]


@pytest.mark.parametrize("rows", [1, 8, None])
def test_compensation_pays_at_few_bits_and_nests(rows: int | None) -> None:
    weight, moment = inputs()
    codec = AnyPrecisionCodec(6, 3, rows, "F32")
    known = Statistics(moment)
    best = any_precision(weight, codec, known).parts()
    plain = any_precision(weight, codec, known, AnyPrecisionOptions(compensate=False)).parts()
    better, before = (losses(codec, weight, parts, moment) for parts in (best, plain))
    assert better[0] < 0.75 * before[0] and better[1] < 0.9 * before[1]
    assert all(after <= 1.0001 * less for less, after in itertools.pairwise(better))
    codes = codec.codes(best, weight.shape)
    for level in codec.levels:
        assert np.array_equal(
            level.codes(level.first_parts(best, weight.shape), weight.shape), codes >> 6 - level.bits
        )
    assert list(best) == list(codec.parts(weight.shape))


def test_a_diagonal_alone_gives_the_weighted_clusters() -> None:
    weight, moment = inputs()
    codec = AnyPrecisionCodec(5, 3)
    found = any_precision(weight, codec, Statistics(np.diagonal(moment).copy())).parts()
    expected = codec.cluster(weight, np.diagonal(moment))
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_fitted_tables_are_the_least_squares_of_their_codes() -> None:
    weight, moment = inputs()
    codec = AnyPrecisionCodec(2, 2, 1, "F32")
    made = any_precision(weight, codec, Statistics(moment))
    codes = codec.codes(made.parts(), weight.shape)
    root = np.linalg.cholesky(moment)
    for row in range(4):
        named = np.eye(4)[codes[row]]
        table = np.linalg.lstsq(root.T @ named, root.T @ weight[row].astype(np.float64), rcond=None)[0]
        assert made.parts()["table2"][row] == pytest.approx(table, abs=2e-4)


def test_chains_heed_the_power_of_their_inputs() -> None:
    weight, moment = inputs()
    codec = SignChainCodec(3, 2)
    known = Statistics(moment)
    scaled = error(weight, sign_chain(weight, codec, known).decode(), np.diagonal(moment))
    plain = error(
        weight, sign_chain(weight, codec, known, SignChainOptions(scale=False)).decode(), np.diagonal(moment)
    )
    assert scaled < 0.95 * plain
    same = sign_chain(weight, codec).parts()
    assert all(np.array_equal(same[key], part) for key, part in codec.encode(weight).items())


def test_other_codecs_and_strange_statistics_are_refused() -> None:
    weight, _ = inputs()
    with pytest.raises(UserError, match="nested codes, not int4"):
        any_precision(weight, IntegerCodec(4))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="chains of signs, not int4"):
        sign_chain(weight, IntegerCodec(4))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="shape"):
        any_precision(weight, AnyPrecisionCodec(4), Statistics(np.eye(7)))


def test_zero_weights_and_silent_inputs() -> None:
    moment = np.zeros((48, 48))
    moment[0, 0] = 1.0
    for codec, method in ((AnyPrecisionCodec(4, 2), any_precision), (SignChainCodec(2, 3), sign_chain)):
        assert not method(np.zeros((5, 48), np.float32), codec, Statistics(moment)).decode().any()
        assert np.isfinite(method(inputs()[0], codec, Statistics(moment)).decode()).all()
        assert np.isfinite(method(inputs()[0], codec, Statistics(0 * moment)).decode()).all()
