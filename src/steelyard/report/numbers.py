"""How numbers are written: as many digits as the interval supports, the same in the page and on the terminal."""

from __future__ import annotations

import math

from steelyard.report.data import Interval
from steelyard.units import format_size

MISSING = "–"
_MOST_DECIMALS = 5


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


def measured(interval: Interval, unit: str = "") -> str:
    """Return the value alone, with the digits its interval supports; the unit "fraction" in percent."""
    return _formatted(interval, unit)[0]


def bounds(interval: Interval, unit: str = "") -> str:
    """Return "[low, high]", empty where there is no interval."""
    _, low, high = _formatted(interval, unit)
    return f"[{low}, {high}]" if low else ""


def with_bounds(interval: Interval, unit: str = "") -> str:
    """Return "0.0123 [0.0110, 0.0137]"."""
    return f"{measured(interval, unit)} {bounds(interval, unit)}".strip()


def signed(text: str) -> str:
    """Return a formatted number with its sign, a true minus included."""
    return "−" + text[1:] if text.startswith("-") else f"+{text}" if text not in ("0", MISSING) else text


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


def _formatted(interval: Interval, unit: str) -> tuple[str, str, str]:
    """Value, low and high with common decimals: two digits of the interval's width."""
    value, low, high = interval.value, interval.low, interval.high
    factor, suffix = (100.0, " %") if unit == "fraction" else (1.0, "")
    if low is None or high is None or not all(map(math.isfinite, (value, low, high))) or high <= low:
        text = figure(value * factor)
        bare = (figure(low * factor), figure(high * factor)) if low is not None and high is not None else ("", "")
        return text + (suffix if text != MISSING else ""), *bare
    decimals = 1 - math.floor(math.log10((high - low) * factor))
    if decimals > _MOST_DECIMALS and abs(value * factor) < 10.0**-_MOST_DECIMALS * 100:
        return f"{value * factor:.2e}{suffix}", f"{low * factor:.2e}", f"{high * factor:.2e}"
    decimals = min(max(decimals, 0), _MOST_DECIMALS + 1)
    return (
        f"{value * factor:,.{decimals}f}{suffix}",
        f"{low * factor:,.{decimals}f}",
        f"{high * factor:,.{decimals}f}",
    )
