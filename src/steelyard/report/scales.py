"""From values to pixels, and the round values worth naming on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] onto pixels [start, end], linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of a value; values outside land on the nearer end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """Round values inside the range, about `count` of them."""
        return _log_ticks(self.low, self.high, count) if self.log else _linear_ticks(self.low, self.high, count)


def linear_scale(values: Iterable[float], start: float, end: float, margin: float = 0.06) -> Scale:
    """Return a linear scale around the values, with a share of free room at both ends."""
    known = list(values)
    low, high = min(known), max(known)
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return Scale(max(low - room, 0.0) if low >= 0 else low - room, high + room, start, end)


def log_scale(values: Iterable[float], start: float, end: float, margin: float = 0.07) -> Scale:
    """Return a logarithmic scale around the values, all above zero."""
    known = list(values)
    low, high = math.log(min(known)), math.log(max(known))
    room = (high - low) * margin or math.log(1.5)
    return Scale(math.exp(low - room), math.exp(high + room), start, end, log=True)


def drawable(value: float | None) -> bool:
    """Whether a value can stand on a logarithmic axis."""
    return value is not None and math.isfinite(value) and value > 0


def power(value: float) -> str:
    """Return a tick of a logarithmic axis: "0.01", "1e-05"."""
    return f"{value:g}" if value >= 1e-4 else f"{value:.0e}"


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / max(count, 1)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9)):
        found = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if ticks and len(found) > count:
            break
        ticks = found
        if len(ticks) >= 3 and len(ticks) * 2 > count:
            break
    if len(ticks) > count:
        ticks = ticks[:: math.ceil(len(ticks) / count)]
    return ticks
