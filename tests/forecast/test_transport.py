"""Transport between samples against closed forms; performance and its projection against planted ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance

from steelyard.errors import UserError
from steelyard.forecast.law import Array
from steelyard.forecast.transport import distance, fit_performance, project


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_distances_on_a_line_are_those_of_the_quantiles(seed: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    first, second, target = draw.normal(0, 1, 9), draw.normal(2, 1, 14), draw.normal(1, 2, 11)
    weights = np.concatenate([np.full(9, share / 9), np.full(14, (1 - share) / 14)])
    expected = wasserstein_distance(np.concatenate([first, second]), target, weights)
    found = distance([first[:, None], second[:, None]], np.array([share, 1 - share]), target[:, None])
    assert found == pytest.approx(expected, abs=1e-9)


def test_distances_of_equal_samples_are_assignments() -> None:
    draw = np.random.default_rng(0)
    first, target = draw.standard_normal((12, 3)), draw.standard_normal((12, 3)) + 1
    costs = np.linalg.norm(first[:, None] - target[None], axis=2)
    expected = costs[linear_sum_assignment(costs)].mean()
    assert distance([first], np.ones(1), target) == pytest.approx(expected)
    assert distance([first], np.ones(1), first[::-1]) == pytest.approx(0.0, abs=1e-12)


def planted(noise: float) -> tuple[Array, dict[int, Array], dict[int, Array]]:
    """Performance that is quadratic in shares at every size and linear in the logarithm of the size."""
    draw = np.random.default_rng(1)
    shares = draw.dirichlet(np.ones(3), 40)
    far = {n: 1.0 + shares @ [0.5, 1.0, 2.0] + 3 / n**0.5 + 0.1 * draw.random(40) for n in (1000, 1500, 10_000)}
    score = {
        n: np.log(n) * 0.05 + 0.6 - (0.1 + 0.05 * shares[:, 0] + 0.08 * shares[:, 1] ** 2) * far[1000] for n in far
    }
    return shares, far, {n: value + noise * draw.standard_normal(40) for n, value in score.items()}


def test_planted_performance_is_projected() -> None:
    noise = 1e-3
    shares, far, score = planted(noise)
    truth = planted(0.0)[2][10_000]
    fits = {n: fit_performance(n, shares, far[1000], score[n]) for n in (1000, 1500)}
    assert fits[1000].error == pytest.approx(noise, rel=0.4)
    forecast = project((fits[1000], far[1000]), (fits[1500], far[1000]), shares, 10_000)
    # Each forecast is a difference of two fits, weighted by where 10,000 lies; 8 coefficients from 40 rows.
    weights = np.log([10_000 / 1000, 10_000 / 1500]) / np.log(1.5)
    expected = noise * np.sqrt(8 / 40) * np.linalg.norm(weights)
    assert np.sqrt(np.mean((forecast - truth) ** 2)) < 2 * expected
    # At the two sizes the projection is what was fitted.
    for n in (1000, 1500):
        at = project((fits[1000], far[1000]), (fits[1500], far[1000]), shares, n)
        assert at == pytest.approx(fits[n].predict(shares, far[1000]))


def test_no_transport() -> None:
    points = np.zeros((3, 2))
    with pytest.raises(UserError, match=r"add up to 1, these to 0\.9"):
        distance([points, points], np.array([0.5, 0.4]), points)
    with pytest.raises(UserError, match="1 sources and 2 shares"):
        distance([points], np.array([0.5, 0.5]), points)
    with pytest.raises(UserError, match="the same features"):
        distance([points], np.ones(1), np.zeros((3, 4)))
    shares, far, score = planted(0.0)
    with pytest.raises(UserError, match="8 coefficients and there are 8 mixtures; it takes 9"):
        fit_performance(1000, shares[:8], far[1000][:8], score[1000][:8])
    fit = fit_performance(1000, shares, far[1000], score[1000])
    with pytest.raises(UserError, match="two different sizes"):
        project((fit, far[1000]), (fit, far[1000]), shares, 10_000)
