"""What is found in tables of other people's models and mixtures: capabilities, skills, shares."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from steelyard.errors import UserError
from steelyard.forecast.law import Array
from steelyard.forecast.mixtures import best_mixture, fit_mixtures
from steelyard.forecast.objective import Objective
from steelyard.forecast.observational import capabilities, downstream, families
from steelyard.forecast.skills import fit_skills


def test_scores_of_few_dimensions_are_given_back() -> None:
    draw = np.random.default_rng(0)
    scores = 0.5 + draw.standard_normal((30, 2)) @ draw.standard_normal((2, 6)) * 0.1
    for standardise in (False, True):
        space = capabilities(scores, 2, standardise)
        assert space.scores(space.of(scores)) == pytest.approx(scores)
        assert space.shares.sum() == pytest.approx(1.0) and space.shares[:2].sum() == pytest.approx(1.0)
    # The directions are the eigenvectors of the covariance.
    space = capabilities(scores, 2)
    covariance = np.cov(scores.T)
    for direction, share in zip(space.directions, space.shares, strict=False):
        assert covariance @ direction == pytest.approx(share * np.trace(covariance) * direction)


def test_lines_through_families() -> None:
    compute = np.array([1.0, 10.0, 100.0, 1.0, 10.0, 100.0, 5.0])
    level = np.array([0.0, 1.0, 2.0, 0.5, 0.4, 0.6, 9.0])
    found = families(level, compute, ["straight"] * 3 + ["crooked"] * 3 + ["alone"])
    assert [family.name for family in found] == ["crooked", "straight"]
    assert (found[1].slope, found[1].level, found[1].r2) == pytest.approx((1.0, 0.0, 1.0))
    assert found[0].r2 == pytest.approx(np.corrcoef(np.log10(compute[3:6]), level[3:6])[0, 1] ** 2)


def test_a_planted_sigmoid_is_found_under_noise() -> None:
    draw = np.random.default_rng(1)
    inputs = draw.standard_normal((200, 2))
    truth = 0.1 + 0.9 / (1 + np.exp(-(inputs @ [1.5, -0.7] - 0.4)))
    noise = 0.005
    found = downstream(inputs, np.clip(truth + noise * draw.standard_normal(200), 0, 1))
    # Standard errors of four constants from 200 rows of this noise are below 0.01.
    assert found.weights == pytest.approx([1.5, -0.7], abs=0.06)
    assert (found.floor, found.offset) == pytest.approx((0.1, -0.4), abs=0.05)
    assert np.abs(found.predict(inputs) - truth).mean() < noise


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.full((5, 3), np.nan), "row 1 lacks a score"),
        (np.ones((2, 3)), "three models at least"),
    ],
)
def test_no_capabilities(scores: Array, message: str) -> None:
    with pytest.raises(UserError, match=message):
        capabilities(scores, 2)


def test_no_sigmoid() -> None:
    with pytest.raises(UserError, match="it takes 4 models or more"):
        downstream(np.arange(3.0), np.full(3, 0.5))
    with pytest.raises(UserError, match="divide percentages by 100"):
        downstream(np.arange(9.0), np.full(9, 50.0))
    with pytest.raises(UserError, match="the same score everywhere"):
        capabilities(np.column_stack([np.arange(5.0), np.ones(5)]), 1, standardise=True)


def skilled(noise: float) -> tuple[Array, Array, list[str], Array, Array]:
    """Six families of five sizes with two skills behind five benchmarks."""
    draw = np.random.default_rng(2)
    names = [f"family {place}" for place in range(6) for _ in range(5)]
    size = np.tile([0.5, 1.0, 3.0, 7.0, 30.0], 6)
    tokens = np.repeat([0.3, 0.5, 1.0, 2.0, 4.0, 8.0], 5) * np.tile([1.0, 1.0, 1.2, 1.5, 1.5], 6)
    levels = np.repeat(draw.normal(0, 0.5, (6, 2)), 5, axis=0)
    skill = levels + np.outer(np.log(size), [0.5, 0.2]) + np.outer(np.log(tokens), [0.3, 0.4])
    loadings = np.array([[1.0, 0.6, 0.2, 0.0, 0.8], [0.0, 0.5, 1.0, 1.2, 0.4]])
    chance = np.array([0.25, 0.25, 0.5, 0.0, 0.0])
    scores = chance + (1 - chance) / (1 + np.exp(-(skill @ loadings - 0.8)))
    return size, tokens, names, scores + noise * draw.standard_normal(scores.shape), chance


def test_planted_skills_forecast_larger_sizes() -> None:
    """Two families keep three sizes; their larger ones come out about as exactly as the rows are."""
    noise = 0.003
    size, tokens, names, scores, chance = skilled(noise)
    _, _, _, truth, _ = skilled(0.0)
    apart = np.array([name in ("family 1", "family 4") for name in names]) & (size > 3)
    kept = [name for name, held in zip(names, apart, strict=True) if not held]
    asked = [name for name, held in zip(names, apart, strict=True) if held]
    two = fit_skills(size[~apart], tokens[~apart], kept, scores[~apart], chance, 2, starts=2)
    one = fit_skills(size[~apart], tokens[~apart], kept, scores[~apart], chance, 1, starts=2)
    errors = [np.abs(m.predict(size[apart], tokens[apart], asked) - truth[apart]).mean() for m in (two, one)]
    assert errors[0] < 4 * noise and errors[0] < 0.5 * errors[1]
    again = fit_skills(size[~apart], tokens[~apart], kept, scores[~apart], chance, 2, starts=2)
    assert again.levels.tobytes() == two.levels.tobytes()
    with pytest.raises(UserError, match="family 'new' is not in the table"):
        two.predict(size[:1], tokens[:1], ["new"])
    scores[3, 2] = np.nan
    with pytest.raises(UserError, match="leave models with gaps out"):
        fit_skills(size, tokens, names, scores, chance)


def mixed(noise: float) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    draw = np.random.default_rng(3)
    mixes = draw.dirichlet(np.ones(3), 40)
    shares = {name: mixes[:, place] for place, name in enumerate(("web", "code", "books"))}
    slopes = {"web": np.array([-0.9, 0.2, 0.1]), "code": np.array([0.4, -1.2, 0.3])}
    losses = {name: 1.5 + np.exp(mixes @ slope) for name, slope in slopes.items()}
    return shares, {n: loss * np.exp(noise * draw.standard_normal(40)) for n, loss in losses.items()}, slopes


def test_planted_mixtures_are_found_under_noise() -> None:
    shares, losses, slopes = mixed(1e-4)
    fits = fit_mixtures(shares, losses, Objective("l2"), starts=8)
    for name, slope in slopes.items():
        found = np.array([fits[name].constants[f"t_{domain}"] for domain in shares])
        assert found == pytest.approx(slope, abs=0.01)
        assert fits[name].constants["c"] == pytest.approx(1.5, abs=0.005)
    weights = {"web": 0.6, "code": 0.4}
    best, loss = best_mixture(fits, weights)
    # Against every mixture of a fine grid.
    steps = np.linspace(0, 1, 201)
    grid = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-12])
    columns = {name: grid[:, place] for place, name in enumerate(shares)}
    everywhere = sum(weight * fits[name].predict(columns) for name, weight in weights.items())
    assert loss <= everywhere.min() + 1e-9
    assert np.array(list(best.values())) == pytest.approx(grid[np.argmin(everywhere)], abs=0.01)
    bounded, worse = best_mixture(fits, weights, lowest={"books": 0.3}, highest={"web": 0.4})
    assert bounded["books"] >= 0.3 - 1e-9 and bounded["web"] <= 0.4 + 1e-9 and worse >= loss
    assert sum(bounded.values()) == pytest.approx(1.0)


def test_no_mixture() -> None:
    shares, losses, _ = mixed(0.0)
    with pytest.raises(UserError, match="row 1: the shares of a mixture add up to 1"):
        fit_mixtures({**shares, "web": shares["web"] + 0.1}, losses)
    with pytest.raises(UserError, match="at least two domains"):
        fit_mixtures({"web": np.ones(40)}, losses)
    fits = fit_mixtures(shares, losses, Objective("l2"), starts=2)
    with pytest.raises(UserError, match="there is no loss 'maths'; losses are web, code"):
        best_mixture(fits, {"maths": 1.0})
    with pytest.raises(UserError, match="no mixture lies within these bounds"):
        best_mixture(fits, {"web": 1.0}, lowest={"web": 0.7, "code": 0.5})


# From here on the public tables.


def test_capabilities_of_public_models(public: SimpleNamespace) -> None:
    """Of 124 models: three directions hold about 97 % of the variance, the first about 80 %, as published."""
    table = public.observational()
    space = capabilities(table.scores)
    assert len(table.scores) == 124
    assert [100 * space.shares[0], 100 * space.shares[:3].sum()] == pytest.approx([84.3, 97.4], abs=0.05)
    scaled = capabilities(table.scores, standardise=True).shares
    assert [100 * scaled[0], 100 * scaled[:3].sum()] == pytest.approx([78.1, 95.9], abs=0.05)
    lines = {line.name: line.r2 for line in families(space.of(table.scores)[:, 0], table.compute, table.families)}
    assert lines["Pythia"] == pytest.approx(0.984, abs=5e-4) and lines["BLOOM"] == pytest.approx(0.984, abs=5e-4)
    # Generations of different data in one family do not follow the law, and it shows.
    assert lines["StableLM"] == pytest.approx(0.075, abs=5e-4)


def test_capabilities_forecast_tasks_better_than_compute(public: SimpleNamespace) -> None:
    errors = list(public.emergent_errors())
    assert len(errors) == 7
    assert sum(row.capabilities < row.compute for row in errors) == 6


def test_skills_of_public_models(public: SimpleNamespace) -> None:
    """Pythia from its smallest model and the other families, beside compute alone."""
    table = public.sloth()
    ours, compute = (public.sloth_error(table, "pythia", kind, 2, starts=1) for kind in ("skills", "compute"))
    assert ours < compute


def test_mixtures_of_public_runs(public: SimpleNamespace) -> None:
    pytest.importorskip("pyarrow")
    shares, losses = public.mixtures("70M")
    fits = fit_mixtures(shares, losses, Objective("l2"), starts=4)
    assert np.mean([found.r2 for found in fits.values()]) == pytest.approx(0.984, abs=2e-3)
