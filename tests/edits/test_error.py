"""The predicted damage against sums written out."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.edits.quantize.error import error


def test_equals_the_sum_written_out_and_the_mean_over_inputs() -> None:
    draw = np.random.default_rng(0)
    weight, decoded = draw.normal(size=(2, 5, 7)).astype(np.float32)
    inputs = draw.normal(size=(50, 7))
    moment = inputs.T @ inputs / 50
    row_weight = draw.uniform(size=5)
    total = 0.0
    for i in range(5):
        for j in range(7):
            for k in range(7):
                miss_j = float(decoded[i, j]) - float(weight[i, j])
                miss_k = float(decoded[i, k]) - float(weight[i, k])
                total += 0.5 * row_weight[i] * miss_j * moment[j, k] * miss_k
    assert error(weight, decoded, moment, row_weight) == pytest.approx(total, rel=1e-12)
    outputs = inputs @ (decoded.astype(np.float64) - weight.astype(np.float64)).T
    assert error(weight, decoded, moment) == pytest.approx(0.5 * (outputs**2).sum(axis=1).mean(), rel=1e-12)


def test_a_diagonal_is_a_full_moment_without_the_rest() -> None:
    draw = np.random.default_rng(1)
    weight, decoded = draw.normal(size=(2, 1500, 9)).astype(np.float32)
    diagonal = draw.uniform(size=9)
    assert error(weight, decoded, diagonal) == pytest.approx(error(weight, decoded, np.diag(diagonal)), rel=1e-12)
    assert error(weight, decoded) == pytest.approx(error(weight, decoded, np.ones(9)), rel=1e-12)


def test_nothing_changed_is_no_damage() -> None:
    weight = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)
    assert error(weight, weight.copy(), np.eye(6), np.ones(4)) == 0.0
