"""GPTQ against the textbook, its invariants, and its claim against rounding to nearest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize._rounded import Rounded
from steelyard.edits.quantize.error import error
from steelyard.edits.quantize.gptq import GptqOptions, gptq
from steelyard.edits.quantize.rtn import RtnOptions, round_to_nearest
from steelyard.edits.quantize.statistics import Statistics, factorize
from steelyard.errors import UserError

from .matrices import correlated

CODECS = [
    IntegerCodec(bits=4, group_size=32, symmetric=True),
    IntegerCodec(bits=3, group_size=16, symmetric=False, scale_dtype="F16"),
    IntegerCodec(bits=2, group_size=None, symmetric=True, scale_dtype="F32"),
    IntegerCodec(bits=5, group_size=48, symmetric=False),
    IntegerCodec(bits=8, group_size=None, symmetric=True),
]


def textbook(weight: np.ndarray, moment: np.ndarray, order: np.ndarray, quantize) -> np.ndarray:
    """Optimal brain quantization in a fixed order, one column at a time, with the whole inverse of H.

    Frantar et al. 2022, equations 2 and 3: after column q is rounded, w -= (w_q - quant(w_q)) / [H^-1]_qq * H^-1_q,
    and q is removed from H^-1 by one step of Gaussian elimination.
    """
    weight = weight.astype(np.float64)[:, order].copy()
    inverse = np.linalg.inv(moment[np.ix_(order, order)])
    codes = np.empty(weight.shape)
    for q in range(weight.shape[1]):
        codes[:, q], rounded = quantize(order[q], weight)
        miss = (weight[:, q] - rounded) / inverse[q, q]
        weight -= np.outer(miss, inverse[q])
        inverse = inverse - np.outer(inverse[:, q], inverse[q]) / inverse[q, q]
    stored = np.empty_like(codes)
    stored[:, order] = codes
    return stored


def nearest(codec: IntegerCodec, scale: np.ndarray, zero: np.ndarray, value: np.ndarray) -> np.ndarray:
    low, high = codec.code_range
    return np.clip(np.round(value / scale + zero), low, high)


def exact(result: Rounded) -> np.ndarray:
    """Return the decoded matrix in float64: at 8 bits the rounding of float32 is not small beside the error."""
    columns = result.codes.shape[1]
    group = np.arange(columns) // (result.codec.group_size or columns)
    zero = 0.0 if result.zero is None else result.zero.astype(np.float64)[:, group]
    return (result.codes - zero) * result.scale.astype(np.float64)[:, group]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.label)
@pytest.mark.parametrize("columns", [96, 160])
def test_activation_order_gives_the_codes_of_the_textbook(codec: IntegerCodec, columns: int) -> None:
    weight, moment = correlated(1, 40, columns)
    options = GptqOptions(sweeps=0, block=32)
    result = gptq(weight, codec, Statistics(moment), options)
    damped = moment + 0.01 * np.mean(np.diag(moment)) * np.eye(columns)
    order = np.argsort(-np.diag(moment), kind="stable")
    group = np.arange(columns) // (codec.group_size or columns)

    def quantize(column: int, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = result.scale[:, group[column]].astype(np.float64)
        zero = np.zeros(len(scale)) if result.zero is None else result.zero[:, group[column]].astype(np.float64)
        position = int(np.flatnonzero(order == column)[0])
        code = nearest(codec, scale, zero, current[:, position])
        return code, (code - zero) * scale

    np.testing.assert_array_equal(result.codes, textbook(weight, damped, order, quantize))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.label)
def test_stored_order_gives_the_codes_of_the_textbook(codec: IntegerCodec) -> None:
    columns = 112
    weight, moment = correlated(2, 24, columns)
    result = gptq(
        weight, codec, Statistics(moment), GptqOptions(sweeps=0, activation_order=False, block=40, search=False)
    )
    damped = moment + 0.01 * np.mean(np.diag(moment)) * np.eye(columns)
    size = codec.group_size or columns
    low, high = codec.code_range
    scales: dict[int, np.ndarray] = {}

    def quantize(column: int, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # At the first column of a group its scales are taken from the weights as they now are.
        if column % size == 0:
            now = current[:, column : column + size]
            smallest, largest = np.minimum(now.min(axis=1), 0), np.maximum(now.max(axis=1), 0)
            exact = (
                (largest - smallest) / (high - low)
                if not codec.symmetric
                else (np.maximum(largest, -smallest) / ((high - low) / 2))
            )
            scale = result.scale[:, column // size].astype(np.float64)
            np.testing.assert_allclose(
                scale, exact, rtol={"F32": 1e-7, "F16": 1e-3, "BF16": 4e-3}[codec.scale_dtype]
            )
            scales[column // size] = scale
        scale = scales[column // size]
        zero = np.zeros(len(scale)) if result.zero is None else result.zero[:, column // size].astype(np.float64)
        code = nearest(codec, scale, zero, current[:, column])
        return code, (code - zero) * scale

    np.testing.assert_array_equal(result.codes, textbook(weight, damped, np.arange(columns), quantize))


def test_factor_is_the_cholesky_factor_of_the_inverse() -> None:
    _, moment = correlated(3, 1, 60)
    factor = factorize(moment, 0.01, True)
    ordered = factor.hessian[np.ix_(factor.order, factor.order)]
    np.testing.assert_allclose(factor.lower @ factor.lower.T @ ordered, np.eye(60), atol=1e-9)
    assert (np.triu(factor.lower, 1) == 0).all()
    assert (np.diff(np.diag(moment)[factor.order]) <= 0).all()


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.label)
@pytest.mark.parametrize("activation_order", [True, False])
def test_uncorrelated_inputs_of_equal_power_give_rounding_to_nearest(
    codec: IntegerCodec, activation_order: bool
) -> None:
    weight, _ = correlated(4, 33, 96)
    options = GptqOptions(sweeps=0, activation_order=activation_order)
    ours = gptq(weight, codec, Statistics(np.eye(96)), options)
    plain = round_to_nearest(weight, codec, Statistics(np.ones(96)))
    np.testing.assert_array_equal(ours.codes, plain.codes)
    np.testing.assert_allclose(ours.scale, plain.scale, rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_loses_less_than_rounding_to_nearest(bits: int, symmetric: bool) -> None:
    codec = IntegerCodec(bits=bits, group_size=32, symmetric=symmetric)
    for seed in range(5):
        weight, moment = correlated(seed, 48, 128)
        statistics = Statistics(moment)
        rtn = error(weight, round_to_nearest(weight, codec, statistics).decode(), moment)
        plain = error(weight, gptq(weight, codec, statistics, GptqOptions(sweeps=0)).decode(), moment)
        refined = error(weight, gptq(weight, codec, statistics).decode(), moment)
        assert refined < plain < rtn


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    out=st.integers(1, 40),
    columns=st.integers(16, 80),
    bits=st.integers(2, 8),
    group=st.sampled_from([16, 24, 32, 64, None]),
    symmetric=st.booleans(),
    activation_order=st.booleans(),
    scale_dtype=st.sampled_from(["BF16", "F16", "F32"]),
)
def test_sweeps_never_raise_the_objective_and_results_can_be_stored(
    seed, out, columns, bits, group, symmetric, activation_order, scale_dtype
) -> None:
    codec = IntegerCodec(bits, group, symmetric, scale_dtype)
    draw = np.random.default_rng(seed)
    weight = (draw.normal(size=(out, columns)) * 10.0 ** draw.integers(-5, 4)).astype(np.float32)
    inputs = draw.normal(size=(columns // 2 + 1, columns))
    statistics = Statistics(inputs.T @ inputs)
    hessian = factorize(inputs.T @ inputs, 0.01, activation_order).hessian
    previous = np.full(out, np.inf)
    for sweeps in (0, 1, 2, 5):
        options = GptqOptions(sweeps=sweeps, activation_order=activation_order)
        result = gptq(weight, codec, statistics, options)
        miss = exact(result) - weight
        loss = np.einsum("ij,jk,ik->i", miss, hessian, miss)
        assert (loss <= previous * (1 + 1e-9)).all()
        previous = loss
        low, high = codec.code_range
        assert result.codes.min() >= low and result.codes.max() <= high
        np.testing.assert_array_equal(np.abs(result.scale), codec.round_scale(np.abs(result.scale)))
        np.testing.assert_array_equal(codec.decode(result.parts(), weight.shape), result.decode())


def test_dead_inputs_are_rounded_like_the_rest() -> None:
    weight, moment = correlated(5, 16, 64)
    moment[:, 10] = moment[10, :] = 0.0
    moment[:, 40] = moment[40, :] = 0.0
    result = gptq(weight, IntegerCodec(bits=8, group_size=32), Statistics(moment))
    decoded = result.decode()
    assert np.isfinite(decoded).all()
    step = np.repeat(np.abs(result.scale), 32, axis=1)
    assert (np.abs(decoded - weight)[:, [10, 40]] <= 0.501 * step[:, [10, 40]]).all()


def test_without_any_input_power_it_is_rounding_to_nearest() -> None:
    weight, _ = correlated(6, 8, 64)
    codec = IntegerCodec(bits=4, group_size=32)
    silent = gptq(weight, codec, Statistics(np.zeros((64, 64))), GptqOptions(sweeps=0))
    np.testing.assert_array_equal(silent.codes, round_to_nearest(weight, codec).codes)


def test_a_moment_that_is_slightly_indefinite_is_damped_further() -> None:
    weight, moment = correlated(7, 8, 64)
    values, vectors = np.linalg.eigh(moment)
    values[0] = -0.05 * np.trace(moment) / 64
    factor = factorize((vectors * values) @ vectors.T, 0.01, True)
    assert np.linalg.eigvalsh(factor.hessian)[0] > 0
    assert np.isfinite(
        gptq(weight, IntegerCodec(bits=3, group_size=32), Statistics((vectors * values) @ vectors.T)).decode()
    ).all()


def test_zero_rows_are_exact_and_constant_rows_as_exact_as_their_scale() -> None:
    _, moment = correlated(8, 1, 64)
    weight = np.zeros((4, 64), np.float32)
    weight[1] = 0.25
    weight[2] = -3.0
    for symmetric in (True, False):
        result = gptq(weight, IntegerCodec(bits=4, group_size=32, symmetric=symmetric), Statistics(moment))
        np.testing.assert_allclose(result.decode(), weight, rtol=2**-8, atol=0)


def test_threads_and_neighbours_change_nothing() -> None:
    from concurrent.futures import ThreadPoolExecutor

    cases = [correlated(seed, 70, 96) for seed in range(6)]
    codec = IntegerCodec(bits=3, group_size=32, symmetric=False)

    def work(case: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return gptq(case[0], codec, Statistics(case[1])).decode()

    alone = [work(case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, cases))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    first_half = gptq(cases[0][0][:32], codec, Statistics(cases[0][1])).decode()
    np.testing.assert_array_equal(first_half, alone[0][:32])


def test_factor_is_shared_between_candidates() -> None:
    weight, moment = correlated(9, 8, 64)
    statistics = Statistics(moment)
    for bits in (2, 4):
        gptq(weight, IntegerCodec(bits=bits, group_size=32), statistics)
    assert statistics.factor(64, 0.01, True) is statistics.factor(64, 0.01, True)


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (np.eye(63), r"shape \[63, 63\] for a matrix of 64 inputs"),
        (np.full((64, 64), np.nan), "NaN or infinity"),
        (np.diag(np.where(np.arange(64) % 2, 1e12, -0.99e12)), "not positive semidefinite"),
    ],
)
def test_unusable_statistics_are_refused(moment: np.ndarray, message: str) -> None:
    weight, _ = correlated(10, 8, 64)
    with pytest.raises(UserError, match=message):
        gptq(weight, IntegerCodec(bits=4), Statistics(moment))


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="damping"):
        GptqOptions(damping=0)
    assert RtnOptions().search
