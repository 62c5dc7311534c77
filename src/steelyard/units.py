"""Sizes people write and read: `4MiB`, `300 MB`, `1_234`."""

from __future__ import annotations

import re
from fractions import Fraction

from steelyard.errors import UserError

_FACTORS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_LARGEST = 2**62
_PATTERN = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?|\.[0-9]+)\s*([A-Za-z]*)\s*")


def parse_size(text: str | int) -> int:
    """Return the number of bytes that `text` names; decimals are rounded down.

    Args:
        text: an integer, or a number with a unit (B, kB, MB, GB, TB: powers of 1000; KiB, MiB, ...: of 1024).

    Raises:
        UserError: if it is not a positive size.

    Example:
        >>> parse_size("4MiB"), parse_size("1.5 kB")
        (4194304, 1500)
    """
    if isinstance(text, int):
        size = text
    else:
        match = _PATTERN.fullmatch(text)
        if match is None or match[2].lower() not in _FACTORS:
            raise UserError(
                f"{text!r} is not a size; write a number of bytes, or one with kB, MB, GB, KiB, MiB, GiB"
            )
        number = match[1].replace("_", "")
        factor = _FACTORS[match[2].lower()]
        # A fraction, since a float may be too small for the number.
        size = int(Fraction(number) * factor)
    if size <= 0:
        raise UserError(f"a size must be above zero, got {text!r}")
    if size > _LARGEST:
        raise UserError(f"{str(text)[:40]!r} is more than any disk holds; the largest size is {_LARGEST:,} bytes")
    return size


def format_size(size: int | float) -> str:
    """Return a size in bytes for people, in powers of 1024.

    Example:
        >>> format_size(4194304), format_size(999)
        ('4.00 MiB', '999 B')
    """
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")
