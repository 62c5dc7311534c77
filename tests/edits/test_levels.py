"""NUPES, and GPTQ for unevenly spaced levels, against plain versions of their equations."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.budget.encoding import methods_for
from steelyard.codecs import (
    BlockwiseCodec,
    Codec,
    Float8Codec,
    IntegerCodec,
    MicroscalingCodec,
    Nvfp4Codec,
    PowerCodec,
    TernaryCodec,
)
from steelyard.codecs.power import levels
from steelyard.edits.quantize import _levels
from steelyard.edits.quantize._grid import number_of
from steelyard.edits.quantize.gptq import GptqOptions, gptq
from steelyard.edits.quantize.nupes import NupesOptions, nupes
from steelyard.edits.quantize.scalar import ScalarOptions, gptq_levels
from steelyard.edits.quantize.statistics import Statistics, factorize
from steelyard.errors import UserError

COLUMNS = 96


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray]:
    """A matrix and the second moment of correlated inputs of unequal power."""
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((400, COLUMNS)) @ generator.standard_normal((COLUMNS, COLUMNS)) * 0.1
    inputs += generator.standard_normal((400, COLUMNS)) * np.geomspace(0.3, 2, COLUMNS)
    weight = (generator.standard_normal((24, COLUMNS)) * 0.02).astype(np.float32)
    return weight, inputs.T @ inputs / 400


def lost(weight: np.ndarray, decoded: np.ndarray, moment: np.ndarray) -> float:
    miss = decoded.astype(np.float64) - weight
    return float(np.einsum("ij,jk,ik->", miss, moment, miss))


def test_compensation_is_the_plain_loop(case: tuple[np.ndarray, np.ndarray]) -> None:
    weight, moment = case
    factor = factorize(moment, 0.01, True)
    target = _levels.Levels(levels(3, 1.5).astype(np.float64), _levels.bounds_of(COLUMNS, 32), number_of("F32"))
    rows = weight.T.astype(np.float64)
    scale, _ = _levels.scales(rows, factor.importance, target, True)
    codes = _levels.compensated(rows, scale.copy(), target, factor, 40, 0)
    work, inverse = weight.astype(np.float64).copy(), np.linalg.inv(factor.hessian)
    expected = np.empty(weight.shape, int)
    left = list(factor.order)
    for j in factor.order:  # Frantar et al., equations 2 and 3
        step = scale[j // 32]
        for r in range(len(work)):
            expected[r, j] = np.argmin(np.abs(work[r, j] - step[r] * target.values))
        miss = work[:, j] - step * target.values[expected[:, j]]
        left.remove(j)
        own = inverse[j, j]
        work[:, left] -= np.outer(miss / own, inverse[j, left])
        inverse -= np.outer(inverse[:, j], inverse[j]) / own
    assert np.equal(codes.T, expected).mean() > 0.999


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_nupes_loses_less_than_uniform_codes(case: tuple[np.ndarray, np.ndarray], bits: int) -> None:
    weight, moment = case
    statistics = Statistics(moment)
    codec = PowerCodec(bits, 32)
    found = nupes(weight, codec, statistics)
    np.testing.assert_array_equal(codec.decode(found.parts(), weight.shape), found.decode())
    mine = lost(weight, found.decode(), moment)
    uniform = lost(weight, nupes(weight, PowerCodec(bits, 32, 1.0), statistics).decode(), moment)
    plain = lost(weight, gptq(weight, IntegerCodec(bits, 32), statistics, GptqOptions()).decode(), moment)
    assert mine <= uniform
    assert mine < 1.02 * plain
    frozen = lost(weight, nupes(weight, codec, statistics, NupesOptions(rounds=0)).decode(), moment)
    assert mine <= frozen


def test_every_code_of_nupes_is_the_best_given_the_others(case: tuple[np.ndarray, np.ndarray]) -> None:
    weight, moment = case
    codec = PowerCodec(3, 32, 1.5, "F32")
    found = nupes(weight, codec, Statistics(moment), NupesOptions(sweeps=60))
    hessian = factorize(moment, 0.01, True).hessian
    values = levels(3, 1.5).astype(np.float64)
    group = np.arange(COLUMNS) // 32
    for r in range(3):
        q = values[found.codes[r] + 4] * found.scale[r, group]
        slope = hessian @ (weight[r] - q)
        for j in range(COLUMNS):
            change = values * found.scale[r, group[j]] - q[j]
            loss = change * change * hessian[j, j] - 2 * change * slope[j]
            assert loss.min() >= -1e-9 * hessian[j, j] * 0.02**2


def test_without_data_the_exponent_is_searched(case: tuple[np.ndarray, np.ndarray]) -> None:
    weight, _ = case
    found = nupes(weight, PowerCodec(4, 32))
    best = lost(weight, found.decode(), np.eye(COLUMNS))
    for exponent in (1.0, found.exponent - 0.25, found.exponent + 0.25):
        other = nupes(weight, PowerCodec(4, 32, exponent))
        assert best <= 1.01 * lost(weight, other.decode(), np.eye(COLUMNS))


CODECS: list[Codec] = [
    BlockwiseCodec("nf", 4, 32),
    BlockwiseCodec("nf", 3, 32, double=True),
    BlockwiseCodec("quantile", 3, 32),
    BlockwiseCodec("float", 4, 96),
    MicroscalingCodec("F4_E2M1", 32),
    Nvfp4Codec(16),
    TernaryCodec(1, 32),
    Float8Codec("F8_E4M3", 8, 48),
    Float8Codec("F8_E5M2", None, None),
    MicroscalingCodec("F8_E5M2"),
]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.label)
def test_levels_gain_from_compensation(case: tuple[np.ndarray, np.ndarray], codec: Codec) -> None:
    weight, moment = case
    found = gptq_levels(weight, codec, Statistics(moment))
    np.testing.assert_array_equal(codec.decode(found.parts(), weight.shape), found.decode())
    assert list(found.parts()) == list(codec.parts(weight.shape))
    mine = lost(weight, found.decode(), moment)
    assert mine < 0.8 * lost(weight, codec.decode(codec.encode(weight), weight.shape), moment)
    assert methods_for(codec) == ("gptq-levels",)
    alone = gptq_levels(weight, codec, Statistics(np.diagonal(moment)), ScalarOptions())
    assert mine < lost(weight, alone.decode(), moment)


def test_what_has_no_levels_of_its_own_is_left_to_the_codec(case: tuple[np.ndarray, np.ndarray]) -> None:
    weight, moment = case
    for codec in (BlockwiseCodec("nf", 4, 64), TernaryCodec(None, None)):
        parts = gptq_levels(weight, codec, Statistics(moment)).parts()
        assert all(parts[key].tobytes() == part.tobytes() for key, part in codec.encode(weight).items())
    with pytest.raises(UserError, match="power codes"):
        nupes(weight, IntegerCodec(4))  # type: ignore[arg-type]
