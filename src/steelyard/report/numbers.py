"""How numbers are written: as many digits as the interval supports, the same in the page and on the terminal."""

from __future__ import annotations

import math

from steelyard.report.data import Interval
from steelyard.units import format_size

MISSING = "–"
_MOST_DECIMALS = 6


def figure(value: float | None, digits: int = 4) -> str:
    """Return a number with `digits` significant digits.

    Example:
        >>> figure(1.23456), figure(0.0123), figure(12345.6), figure(0.0000321)
        ('1.235', '0.0123', '12,346', '3.21e-05')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4:
        return f"{value:.2e}"
    if magnitude < -1:
        digits = min(digits, 3)
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def measured(interval: Interval, unit: str = "", decimals: int = 0) -> str:
    """Return the value alone, with the digits its interval supports and at least `decimals` of them.

    The unit "fraction" is written in percent.
    """
    return _formatted(interval, unit, decimals)[0]


def bounds(interval: Interval, unit: str = "", decimals: int = 0) -> str:
    """Return "[low, high]", empty where there is no interval."""
    _, low, high = _formatted(interval, unit, decimals)
    return f"[{low}, {high}]" if low else ""


def with_bounds(interval: Interval, unit: str = "") -> str:
    """Return "0.0123 [0.0110, 0.0137]"."""
    return f"{measured(interval, unit)} {bounds(interval, unit)}".strip()


def decimals_of(interval: Interval | None, unit: str = "") -> int:
    """Return the decimals that show two digits of the interval's width; 0 where there is no interval."""
    if interval is None or interval.low is None or interval.high is None:
        return 0
    width = (interval.high - interval.low) * _factor(unit)
    return max(0, 1 - math.floor(math.log10(width))) if math.isfinite(width) and width > 0 else 0


def signed(text: str) -> str:
    """Return a formatted number with its sign."""
    return text if text.startswith("-") or text in ("0", MISSING) else f"+{text}"


def size(nbytes: int | None) -> str:
    """Return "4.00 MiB"."""
    return MISSING if nbytes is None else format_size(nbytes)


def exact(nbytes: int | None) -> str:
    """Return "4,194,304"."""
    return MISSING if nbytes is None else f"{nbytes:,}"


def duration(seconds: float | None) -> str:
    """Return "1.4 s", "2 min 05 s", "1 h 02 min"."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _factor(unit: str) -> float:
    return 100.0 if unit == "fraction" else 1.0


def _formatted(interval: Interval, unit: str, least: int) -> tuple[str, str, str]:
    """Value, low and high with the same decimals; low and high are empty where there is no interval."""
    factor, suffix = _factor(unit), " %" if unit == "fraction" else ""
    value = interval.value * factor
    if interval.low is None or interval.high is None:
        text = figure(value) if least == 0 or not math.isfinite(value) else f"{value:,.{least}f}"
        return text + (suffix if text != MISSING else ""), "", ""
    low, high = interval.low * factor, interval.high * factor
    decimals = max(decimals_of(interval, unit), least)
    if not all(map(math.isfinite, (value, low, high))) or low >= high:
        return figure(value) + suffix, figure(low), figure(high)
    if decimals > _MOST_DECIMALS:
        return f"{value:.2e}{suffix}", f"{low:.2e}", f"{high:.2e}"
    return f"{value:,.{decimals}f}{suffix}", f"{low:,.{decimals}f}", f"{high:,.{decimals}f}"
