"""Rounding to grids: the loop is that of a plain, slow one, and steps follow what errors cost."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.codecs import EntropyCodec, GridCodec, IntegerCodec
from steelyard.codecs.grid import exponents, factors
from steelyard.edits.quantize.error import error
from steelyard.edits.quantize.gptq import gptq
from steelyard.edits.quantize.lattice import LatticeOptions, lattice
from steelyard.edits.quantize.statistics import Statistics


def example(out: int = 96, columns: int = 130) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weight, the second moment of correlated inputs, and unequal costs of the rows."""
    rng = np.random.default_rng(3)
    mixing = rng.standard_normal((columns, columns)) * np.exp(rng.standard_normal(columns))
    moment = mixing.T @ mixing / columns
    return rng.standard_normal((out, columns)).astype(np.float32), moment, np.exp(1.5 * rng.standard_normal(out))


def test_codes_are_those_of_a_plain_loop() -> None:
    weight, moment, cost = example()
    statistics = Statistics(moment, cost)
    codec = GridCodec(0.8)
    parts = lattice(weight, codec, statistics).parts()
    step = (
        parts["weight_scale"].astype(np.float64)
        * factors(parts["row_exponent"]).astype(np.float64)
        * factors(parts["column_exponent"])
    )
    damped = moment + 0.01 * np.diag(moment).mean() * np.eye(len(moment))
    order = np.argsort(-np.diag(moment), kind="stable")
    lower = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)]))
    work = weight.astype(np.float64)[:, order]
    expected = np.empty_like(work)
    for j in range(work.shape[1]):
        expected[:, j] = np.rint(work[:, j] / step[:, order[j]])
        miss = (work[:, j] - expected[:, j] * step[:, order[j]]) / lower[j, j]
        work[:, j:] -= np.outer(miss, lower[j:, j])
    # A weight that lies on the border of two codes may fall to either side.
    assert (expected != parts["weight"][:, order]).mean() < 1e-3


def test_steps_are_as_fine_as_errors_are_dear() -> None:
    weight, moment, cost = example()
    parts = lattice(weight, GridCodec(0.5), Statistics(moment, cost)).parts()
    rows = np.log2(factors(parts["row_exponent"])).reshape(-1)
    assert np.polyfit(np.log2(cost), rows, 1)[0] == pytest.approx(-0.5, abs=0.01)
    importance = Statistics(moment).factor(len(moment), 0.01, True)
    assert importance is not None
    columns = np.log2(factors(parts["column_exponent"])).reshape(-1)
    assert np.polyfit(np.log2(importance.importance), columns, 1)[0] == pytest.approx(-0.5, abs=0.01)
    assert np.array_equal(exponents(factors(np.arange(256))), np.clip(np.arange(256), 0, 255))


def test_less_damage_than_equal_steps_and_than_integers_of_more_bytes() -> None:
    weight, moment, cost = example(256, 256)
    statistics = Statistics(moment, cost)

    def loss(decoded: np.ndarray) -> float:
        return error(weight, decoded, moment, cost)

    integers = IntegerCodec(3, 64, False, "F16")
    rounded = gptq(weight, integers, statistics)
    codec = GridCodec(0.6)
    found = lattice(weight, codec, statistics)
    equal = lattice(weight, codec, statistics, LatticeOptions(rows=False, columns=False))
    size = EntropyCodec(codec).fitted(found.parts(), weight.shape).nbytes(weight.shape)
    assert size < EntropyCodec(codec).fitted(equal.parts(), weight.shape).nbytes(weight.shape) * 1.1
    assert size < integers.nbytes(weight.shape)
    assert loss(found.decode()) < 0.5 * loss(rounded.decode())
    assert loss(found.decode()) < 0.7 * loss(equal.decode())


@pytest.mark.parametrize("moment", [None, "diagonal"])
def test_with_little_or_nothing_known(moment: str | None) -> None:
    weight, full, _ = example()
    weight[5] = 0
    weight[7, 3] = 300.0  # no row may need a code beyond the largest
    statistics = Statistics(None if moment is None else np.diag(full).copy())
    found = lattice(weight, GridCodec(0.3), statistics)
    parts = found.parts()
    step = parts["weight_scale"] * factors(parts["row_exponent"]) * factors(parts["column_exponent"])
    assert (np.abs(found.decode() - weight) <= 0.5001 * step).all()
    assert np.abs(parts["weight"]).max() <= 127 and not found.decode()[5].any()
    assert not lattice(np.zeros((4, 8), np.float32), GridCodec(1.0)).decode().any()
