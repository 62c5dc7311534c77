"""What holds for every law: derivatives, the way from constants to coordinates and back, planted constants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from steelyard.errors import UserError
from steelyard.forecast import laws
from steelyard.forecast.fitting import fit
from steelyard.forecast.law import Array, Law
from steelyard.forecast.objective import Objective
from steelyard.forecast.rows import Rows, rows_of

LAWS = list(laws.laws().values())
# Where the columns of a law lie; those that are not here are powers of ten around a billion.
SPANS = {
    "N": (7.5, 9.8),
    "D": (9.0, 11.3),
    "D2": (9.0, 11.0),
    "U": (9.0, 9.8),
    "C": (17.0, 22.0),
    "Nv": (6.5, 8.5),
    "batch": (1.0, 4.0),
    "steps": (3.0, 5.5),
    "width": (2.4, 3.5),
    "depth": (0.5, 1.9),
    "G": (0.0, 1.2),
    "E": (0.0, 2.5),
    "P": (0.0, 0.9),
    "group": (1.0, 3.0),
    "bits": (0.45, 0.95),
    "S1": (0.0, 1.3),
    "rank": (3.0, 6.0),
}
# Those that are not powers of ten: the ends between which they lie.
PLAIN = {"S2": (0.0, 0.3), "loss": (2.0, 4.5), "teacher": (1.8, 3.0), "alone": (2.0, 4.0), "months": (0.0, 24.0)}


def columns(law: Law, rows: int, seed: int = 0) -> dict[str, Array]:
    """Values of every column of a law."""
    draw = np.random.default_rng(seed)
    found = {}
    for name in law.columns:
        if name == "S":
            found[name] = draw.choice([0.0, 0.25, 0.5, 0.75, 0.9], rows)
        elif name in PLAIN:
            found[name] = draw.uniform(*PLAIN[name], rows)
        else:
            low, high = SPANS[name]
            found[name] = 10.0 ** draw.uniform(low, high, rows)
    return found


def rows(law: Law, count: int, seed: int = 0) -> Rows:
    return rows_of(law, columns(law, count, seed), np.ones(count))


def inside(law: Law, count: int, seed: int) -> Array:
    """Coordinates drawn from the law's box."""
    low, high = (np.array([getattr(p, end) for p in law.parameters]) for end in ("low", "high"))
    return low + (high - low) * np.random.default_rng(seed).random((count, len(low)))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_derivatives_are_those_of_the_form(law: Law) -> None:
    """Against complex steps, which have no rounding error to speak of."""
    table, places = rows(law, 40), inside(law, 6, 1)
    _, derivatives = law.evaluate(places, table.seen())
    assert len(derivatives) == len(law.parameters)
    for place, parameter in enumerate(law.parameters):
        moved = places.astype(complex)
        moved[:, place] += 1e-30j
        value, _ = law.evaluate(moved, table.seen())
        expected = np.broadcast_to(value.imag / 1e-30, (6, 40))
        found = np.broadcast_to(derivatives[place], (6, 40))
        scale = np.abs(expected).max() + 1e-12
        assert np.abs(found - expected).max() / scale < 1e-10, parameter.name


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_constants_and_coordinates_are_inverse(law: Law) -> None:
    table = rows(law, 12)
    for place in inside(law, 8, 2):
        constants = {name: float(value) for name, value in law.constants(place, table.centres).items()}
        assert law.coordinates(constants, table.centres) == pytest.approx(place, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("law", [law for law in LAWS if law.published], ids=lambda law: law.name)
def test_published_constants_give_losses_where_they_were_fitted(law: Law) -> None:
    for published in law.published:
        assert set(published.constants) == set(law.names)
        table = columns(law, 200)
        for name, (low, high) in published.ranges.items():
            if name in table:
                table[name] = np.geomspace(max(low, 1e-3), high, 200)
        held = rows_of(law, table, np.ones(200))
        place = law.coordinates(published.constants, held.centres, published.units)
        loss, _ = law.evaluate(place[None], held.seen())
        assert np.isfinite(loss).all()
        if law.target == "loss":
            assert (loss > 0.3).all() and (loss < 14).all()


def test_units_of_published_constants_are_applied() -> None:
    """The same constants written per million and per one give the same loss."""
    law = laws.get("critical-batch-size")
    published = law.published[0]
    table = rows_of(law, {"N": np.array([8.5e7, 1.2e9])}, np.ones(2))
    place = law.coordinates(published.constants, table.centres, published.units)
    batch, _ = law.evaluate(place[None], table.seen())
    assert batch[0] == pytest.approx([93.1968 * 85**0.46828, 93.1968 * 1200**0.46828], rel=1e-12)


_NOISE = 1e-4
# More starts where the box holds places without a loss, or minima of another shape.
_STARTS = {"farseer": 48, "expert-sparsity": 32, "data-constrained": 32, "clark": 32, "distillation": 32}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_planted_constants_are_found_again_from_noisy_rows(law: Law) -> None:
    """Constants and predictions are off by what the noise explains, no more: Fisher's information says how much."""
    table = rows(law, 60, seed=3)
    planted = np.array([[0.4 * p.low + 0.6 * p.high for p in law.parameters]])
    truth, slopes = law.evaluate(planted, table.seen())
    scale = truth[0] if law.logarithmic else np.full(60, np.median(np.abs(truth)))
    draw = _NOISE * np.random.default_rng(4).standard_normal(60)
    measured = truth[0] * np.exp(draw) if law.logarithmic else truth[0] + scale * draw
    objective = Objective("l2", logarithmic=law.logarithmic)
    found = fit(rows_of(law, table.columns, measured), objective, starts=_STARTS.get(law.name, 12))
    # The optimum is no worse than the truth.
    spent = 0.5 * np.sum(draw**2) * (1.0 if law.logarithmic else scale[0] ** 2)
    assert found.value <= spent * (1 + 1e-6)
    # What is predicted is off by the noise that constants can take up: chi squared with one degree for each.
    off = (found.predict(table.columns) - truth[0]) / (scale * _NOISE)
    assert np.sum(off**2) < chi2.ppf(1 - 1e-6, len(law.names))
    # And constants by their standard errors, where these are small enough for straight lines.
    rise = np.stack([np.broadcast_to(s, truth.shape)[0] / scale for s in slopes], axis=1)
    errors = _NOISE * np.sqrt(np.diag(np.linalg.pinv(rise.T @ rise)))
    sure = errors < 0.02
    assert sure.any()
    assert (np.abs(found.coordinates - planted[0])[sure] < 6 * errors[sure]).all()


def chinchilla_rows(noise: float, seed: int = 0) -> tuple[Rows, Mapping[str, float]]:
    law = laws.get("chinchilla")
    constants = {"A": 482.0, "alpha": 0.348, "B": 2085.4, "beta": 0.366, "E": 1.817}
    table = columns(law, 150, seed)
    loss = 1.817 + 482.0 / table["N"] ** 0.348 + 2085.4 / table["D"] ** 0.366
    draw = np.random.default_rng(seed)
    return rows_of(law, table, loss * np.exp(noise * draw.standard_normal(150))), constants


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6))
def test_chinchilla_is_recovered_from_noise(seed: int) -> None:
    planted, constants = chinchilla_rows(0.002, seed)
    found = fit(planted, starts=8)
    for name in ("alpha", "beta", "E"):
        assert found.constants[name] == pytest.approx(constants[name], rel=0.12)


def test_unknown_law_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean chinchilla"):
        laws.get("chinchila")
