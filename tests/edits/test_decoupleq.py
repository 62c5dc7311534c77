"""decoupleQ against least squares done by numpy, and against what it begins with."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize import _affine
from steelyard.edits.quantize._grid import Grid
from steelyard.edits.quantize.decoupleq import decoupleq
from steelyard.edits.quantize.gptq import gptq
from steelyard.edits.quantize.statistics import Statistics

from .matrices import correlated


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_affine_problem_is_least_squares(symmetric: bool) -> None:
    weight, moment = correlated(1, 40, 72)
    moment += 0.01 * np.trace(moment) / 72 * np.eye(72)
    codec = IntegerCodec(3, 32, symmetric)
    grid, group = Grid.of(codec, 72), np.arange(72) // 32
    draw = np.random.default_rng(0)
    zero = np.zeros((3, 40)) if symmetric else draw.integers(-2, 3, (3, 40)).astype(float)
    codes = np.clip(np.rint(weight.T.astype(float) / 0.03 + zero[group]), -4, 3)
    scale = np.full((3, 40), 0.03)
    found_zero = zero.copy()
    image = np.ascontiguousarray(moment @ weight.T.astype(float))
    _affine.solve(codes, image, moment, grid.bounds, -4.0, 3.0, symmetric, scale, found_zero)
    root = np.linalg.cholesky(moment).T
    members = group[:, None] == np.arange(3)
    for r in range(40):
        target = root @ weight[r].astype(float)
        if not symmetric:
            both = root @ np.concatenate([codes[:, r, None] * members, members], axis=1)
            a, b = np.split(np.linalg.lstsq(both, target, rcond=None)[0], 2)
            expected = np.where(a > 0, np.clip(np.rint(-b / a), -4, 3), zero[:, r])
            np.testing.assert_array_equal(found_zero[:, r], expected)
        levels = (codes[:, r] - found_zero[group, r])[:, None] * members
        np.testing.assert_allclose(scale[:, r], np.linalg.lstsq(root @ levels, target, rcond=None)[0], rtol=1e-4)


@pytest.mark.parametrize(
    "codec", [IntegerCodec(2, 32, False), IntegerCodec(3, 32, True, "F16"), IntegerCodec(3, None)]
)
def test_no_row_loses_more_than_under_gptq(codec: IntegerCodec) -> None:
    weight, moment = correlated(2, 48, 96)
    statistics = Statistics(moment)
    damped = moment + 0.01 * np.trace(moment) / 96 * np.eye(96)
    lost = {}
    for name, method in (("gptq", gptq), ("decoupleq", decoupleq)):
        miss = method(weight, codec, statistics).decode().astype(float) - weight
        lost[name] = np.einsum("ij,jk,ik->i", miss, damped, miss)
    assert (lost["decoupleq"] <= lost["gptq"] * (1 + 1e-9)).all()
    assert lost["decoupleq"].sum() < lost["gptq"].sum()
