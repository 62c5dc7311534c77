"""Areas under learning rates, and the laws of one run's loss that read them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.errors import UserError
from steelyard.forecast.schedules import areas, multi_power, schedule


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 10**6), st.floats(0.5, 0.9999), st.integers(0, 10))
def test_areas_are_the_double_sums(seed: int, momentum: float, warmup: int) -> None:
    rate = np.random.default_rng(seed).random(24)
    first, second = areas(rate, momentum, warmup)
    for step in (0, 7, 23):
        expected = sum(
            (rate[k - 1] - rate[k]) * momentum ** (i - k) for i in range(step + 1) for k in range(warmup + 1, i + 1)
        )
        assert first[step] == pytest.approx(sum(rate[: step + 1]))
        assert second[step] == pytest.approx(expected, abs=1e-12)


def test_schedules() -> None:
    rate = schedule(101, 1.0, 0.1, warmup=11, decay="linear", begin=51)
    assert rate[0] == 0 and rate[11] == rate[50] == 1 and rate[-1] == pytest.approx(0.1)
    assert rate[76] == pytest.approx(1 - 0.9 * 25 / 49, rel=1e-9)
    assert schedule(101, 1.0, 0.0)[50] == pytest.approx(0.5)
    assert schedule(3, 1.0, 0.01, decay="exponential")[1] == pytest.approx(0.1)
    with pytest.raises(UserError, match="no room for a warm-up of 5"):
        schedule(4, 1.0, warmup=5)
    with pytest.raises(UserError, match="needs an end above zero"):
        schedule(4, 1.0, decay="exponential")


def test_the_multi_power_law_on_the_curves_it_was_not_fitted_to(public: SimpleNamespace) -> None:
    """Published for the 25M model: R2 .9988 and a mean error of .00376 over six schedules."""
    table = public.Table("lr_schedule_curves", "curves.csv")
    constants = (3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257)
    dropped = schedule(16000, 3e-4, warmup=2160, decay="constant")
    rates = {
        "constant_72000": schedule(72000, 3e-4, warmup=2160, decay="constant"),
        "cosine_72000": schedule(72000, 3e-4, 3e-5, warmup=2160),
        "wsd_20000_24000": schedule(24000, 3e-4, 3e-5, warmup=2160, decay="exponential", begin=20000),
        "wsdld_20000_24000": schedule(24000, 3e-4, 3e-5, warmup=2160, decay="linear", begin=20000),
        "wsdcon_3": np.where(np.arange(16000) < 8000, dropped, 3e-5),
        "wsdcon_18": np.where(np.arange(16000) < 8000, dropped, 18e-5),
    }
    explained, errors = [], []
    for name, rate in rates.items():
        mine = (table.words("schedule") == name) & (table["model_m_params"] == 25) & (table["step"] < len(rate))
        steps, loss = table["step"][mine].astype(int)[::3], table["loss"][mine][::3]
        assert np.abs(rate[steps] - table["lr"][mine][::3]).max() < 1e-7
        off = multi_power(rate, steps, constants) - loss
        explained.append(1 - np.sum(off**2) / np.sum((loss - loss.mean()) ** 2))
        errors.append(np.abs(off).mean())
    assert np.mean(explained) == pytest.approx(0.9988, abs=1.5e-4)
    assert np.mean(errors) == pytest.approx(0.00376, abs=1e-4)
