"""The order of names: numbers inside them count as numbers."""

from __future__ import annotations

import re

_PARTS = re.compile(r"([0-9]+)")


def natural_key(name: str) -> tuple[tuple[str | tuple[int, str], ...], str]:
    """Return a sort key under which `layers.2` comes before `layers.10`.

    Example:
        >>> sorted(["h.10.w", "h.2.w"], key=natural_key)
        ['h.2.w', 'h.10.w']
    """
    parts = _PARTS.split(name)
    # Text and digits alternate; digits compare by length, then by value, however many there are.
    key = tuple(
        (len(part.lstrip("0")), part.lstrip("0")) if position % 2 else part for position, part in enumerate(parts)
    )
    return key, name
