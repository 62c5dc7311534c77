from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.report import Interval
from steelyard.report.numbers import bounds, duration, figure, measured, signed, with_bounds
from steelyard.report.scales import Scale, linear_scale, log_scale

finite = st.floats(-1e9, 1e9, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.23456, "1.235"),
        (0.0123, "0.0123"),
        (12345.6, "12,346"),
        (3.21e-5, "3.21e-05"),
        (0, "0"),
        (-2.5, "-2.500"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (None, "–"),
    ],
)
def test_figures(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_digits_follow_the_interval() -> None:
    assert with_bounds(Interval(0.01234, 0.01101, 0.01369)) == "0.0123 [0.0110, 0.0137]"
    assert with_bounds(Interval(1.2341, 1.19, 1.28)) == "1.234 [1.190, 1.280]"
    assert with_bounds(Interval(0.96123, 0.958, 0.9641), "fraction") == "96.12 % [95.80, 96.41]"
    assert with_bounds(Interval(2.35e-5, 2.1e-5, 2.6e-5)) == "2.35e-05 [2.10e-05, 2.60e-05]"
    assert with_bounds(Interval(2.35e-7, 2.1e-7, 2.6e-7)) == "2.35e-07 [2.10e-07, 2.60e-07]"
    assert with_bounds(Interval(5.0)) == "5.000"
    assert bounds(Interval(5.0)) == ""


@given(finite, st.floats(1e-6, 1e3), st.floats(1e-6, 1e3))
def test_what_is_written_is_what_was_measured(value: float, below: float, above: float) -> None:
    interval = Interval(value, value - below, value + above)
    width = interval.high - interval.low
    written = float(measured(interval).replace(",", ""))
    low, high = (float(part.replace(",", "")) for part in bounds(interval)[1:-1].split(", "))
    # Off by rounding alone: at most a tenth of the interval, or half of the last of three digits.
    for exact, text in ((interval.value, written), (interval.low, low), (interval.high, high)):
        assert abs(exact - text) <= 0.051 * width + 0.0051 * abs(exact)


def test_signs_and_durations() -> None:
    assert [signed(text) for text in ("0.5", "-0.5", "0", "–")] == ["+0.5", "-0.5", "0", "–"]
    assert [duration(value) for value in (1.44, 59.99, 125, 3725, None)] == [
        "1.4 s", "60.0 s", "2 min 05 s", "1 h 02 min", "–",
    ]  # fmt: skip


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20), st.booleans(), st.integers(2, 9))
def test_scales_hold_their_values_in_order_and_name_round_ones(values: list[float], log: bool, count: int) -> None:
    scale = (log_scale if log else linear_scale)(values, 10.0, 500.0)
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(10.0 <= place <= 500.0 for place in places)
    ticks = scale.ticks(count)
    assert ticks == sorted(set(ticks))
    assert all(scale.low * (1 - 1e-6) <= tick <= scale.high * (1 + 1e-6) for tick in ticks)
    assert len(ticks) <= count + 2


def test_a_logarithmic_scale_gives_every_decade_the_same_room() -> None:
    scale = Scale(1e-4, 1e2, 600.0, 0.0, log=True)
    assert [scale(10.0**power) for power in range(-4, 3)] == pytest.approx([600, 500, 400, 300, 200, 100, 0])
    assert scale.ticks(7) == pytest.approx([1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100])


def test_less_than_a_decade_is_still_named() -> None:
    assert len(Scale(0.012, 0.047, 0.0, 1.0, log=True).ticks(6)) >= 2
