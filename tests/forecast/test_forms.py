"""Laws against their equations written out, and against the sums and games that they are derived from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import nbinom

from steelyard.errors import UserError
from steelyard.forecast import laws
from steelyard.forecast.context import reach
from steelyard.forecast.emergence import breakthroughness, pass_until, per_token, resolution
from steelyard.forecast.fitting import fit
from steelyard.forecast.law import Array
from steelyard.forecast.objective import Objective
from steelyard.forecast.rows import rows_of


def value(name: str, constants: dict[str, float], **columns: float) -> float:
    """A law's value at constants, in units."""
    law = laws.get(name)
    table = rows_of(law, {key: np.array([number, 2.0 * number]) for key, number in columns.items()}, np.ones(2))
    found, _ = law.evaluate(law.coordinates(constants, table.centres)[None], table.seen())
    return float(found[0, 0])


def test_distillation() -> None:
    teacher, alone, size, data = 2.1, 2.6, 5e8, 2e10
    constants = {
        "A": 2243.0,
        "a": 0.32,
        "B": 24181.0,
        "b": 0.64,
        "g": 0.76,
        "c0": 2.5,
        "c1": 522.0,
        "d1": 1.3,
        "f1": 0.09,
    }
    expected = (
        teacher
        + teacher**-2.5
        * (1 + (teacher / (alone * 1.3)) ** (1 / 0.09)) ** (-522.0 * 0.09)
        * (2243.0 / size**0.32 + 24181.0 / data**0.64) ** 0.76
    )
    found = value("distillation", constants, N=size, D=data, teacher=teacher, alone=alone)
    assert found == pytest.approx(expected, rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.floats(6, 10), st.floats(3, 6), st.floats(3, 7))
def test_trajectories_solve_their_equation(size: float, steps: float, batch: float) -> None:
    n, s, b = 10**size, 10**steps, 10**batch
    constants = dict(laws.get("trajectory").published[0].constants)

    def off(loss: float) -> float:
        critical = 2e8 / loss ** (1 / 0.21)
        return loss - (6.5e13 / n) ** 0.077 - (2.1e3 / (s / (1 + critical / b))) ** 0.76

    expected = brentq(off, 1e-3, 1e6, xtol=1e-13, rtol=1e-14)
    assert value("trajectory", constants, N=n, steps=s, batch=b) == pytest.approx(expected, rel=1e-9)


def test_trajectories_at_a_huge_batch_are_kaplans() -> None:
    constants = dict(laws.get("kaplan-steps").published[0].constants)
    more = dict(laws.get("trajectory").published[0].constants)
    expected = value("kaplan-steps", constants, N=1e8, steps=1e4)
    assert value("trajectory", more, N=1e8, steps=1e4, batch=1e15) == pytest.approx(expected, rel=1e-8)


def test_a_broken_power_has_its_slopes() -> None:
    constants = {"a": 0.0, "b": 300.0, "c0": 0.1, "c1": 0.4, "d": 1e18, "f": 0.3}
    low, high = (
        math.log(value("broken", constants, C=2 * at) / value("broken", constants, C=at)) / math.log(2)
        for at in (1e10, 1e26)
    )
    assert low == pytest.approx(-0.1, abs=1e-9) and high == pytest.approx(-0.5, abs=1e-9)
    # At the break the decomposition of the authors: 2^(-c1 f) of the first power.
    at_break = 300.0 * 1e18**-0.1 * 2 ** (-0.4 * 0.3)
    assert value("broken", constants, C=1e18) == pytest.approx(at_break, rel=1e-12)


def test_cut_tails_come_out_of_counting_words() -> None:
    """A learner that knows what it saw, on words i^-2 of which the first `rank` are ever shown."""
    shares = np.arange(1, 400_001, dtype=float) ** -2
    shares /= shares.sum()

    def missed(samples: float, rank: float) -> float:
        shown = shares[: int(rank)] / shares[: int(rank)].sum()
        return float(shares[: int(rank)] @ np.exp(samples * np.log1p(-shown)) + shares[int(rank) :].sum())

    # Far from where samples just reach the cut: there the sum of two powers is only a bound.
    grid = [(d, times * 30 * d**0.5) for d in (1e2, 1e3, 1e4, 1e5) for times in (1, 3)]
    grid += [(times * (30 * k) ** 2, k) for k in (10.0, 30.0, 100.0, 300.0) for times in (1, 10)]
    samples, ranks = (np.array(column, dtype=float) for column in zip(*grid, strict=True))
    measured = np.array([missed(d, k) for d, k in grid])
    table = rows_of(laws.get("cut-tails"), {"D": samples, "rank": ranks}, measured)
    found = fit(table, Objective("l2"), starts=8, fixed={"E": 0.0})
    assert found.constants["kappa"] == pytest.approx(1.0, abs=0.05)
    assert found.constants["beta"] == pytest.approx(0.5, abs=0.05)


def test_capacity_and_density() -> None:
    law = laws.get("knowledge-capacity")
    bits = [value(law.name, dict(entry.constants), N=7e9) for entry in law.published]
    assert bits == pytest.approx([14e9, 7e9, 4.9e9])
    growth = {"A": math.log(2) / 3.5, "B": 0.0}
    assert value("densing", growth, months=7.0) == pytest.approx(4.0)


def test_the_share_that_passes_until() -> None:
    """Against the negative binomial distribution, whose tails the ends of the interval have to leave out."""
    share = pass_until(3, 5000)
    assert share.value == 3 / 5000
    assert nbinom.cdf(4997, 3, share.low) == pytest.approx(0.025)
    assert nbinom.sf(4996, 3, share.high) == pytest.approx(0.025)
    assert pass_until(4, 4).high == 1.0
    assert (1 - resolution(100)) ** 100 == pytest.approx(0.05)
    with pytest.raises(UserError, match="5 passes in 4 trials cannot be"):
        pass_until(5, 4)


def test_exact_matches_are_powers() -> None:
    smooth = np.array([0.2, 0.5, 0.9])
    assert per_token(smooth**10, 10) == pytest.approx(smooth)
    with pytest.raises(UserError, match="a share between 0 and 1"):
        per_token(np.array([1.2]), 10)


def test_how_sudden_a_rise_is() -> None:
    assert breakthroughness([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(4.0)
    assert breakthroughness([0.0, 0.0, 0.0, 0.0, 0.6]) == math.inf
    assert breakthroughness([0.5, 0.4, 0.3]) == pytest.approx(-2.0)
    assert breakthroughness([0.3, 0.3, 0.3]) == 0.0
    sharp: Array = np.exp(-np.exp(-4.0 * (np.arange(9) - 4.0)))
    assert breakthroughness(sharp) > 100 * breakthroughness(np.linspace(0.0, 1.0, 9))
    with pytest.raises(UserError, match="three sizes at least, not 2"):
        breakthroughness([0.1, 0.2])


def test_reach_of_rotary_positions() -> None:
    """LLaMA 2 as in the authors' notes: 92 dimensions, bases 2608 and 652, 128K but not 256K after base 1e6."""
    plain = reach(128, 4096, 4096, 10_000)
    assert (plain.critical_dimension, plain.length, plain.bounded_by) == (92, 4096.0, "tuned length")
    assert [round(base) for base in plain.improving_bases] == [2608, 1304, 652]
    far = reach(128, 4096, 16_384, 1e6)
    assert far.bounded_by == "base" and 125_000 < far.length < 262_144
    # Pairs of dimensions that turn at least once within the texts, counted.
    turns = [pair for pair in range(64) if 2 * math.pi * 10_000 ** (2 * pair / 128) <= 4096]
    assert plain.critical_dimension == 2 * len(turns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((127, 4096, 4096, 1e4), "even number of dimensions, not 127"),
        ((128, 4, 4096, 1e4), "too short for any dimension"),
        ((128, 4096, 2048, 1e4), "shorter than the first training on 4096"),
        ((128, 4096, 4096, 1.0), "above 1, not 1"),
    ],
)
def test_no_reach(arguments: tuple[int, int, int, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        reach(*arguments)
