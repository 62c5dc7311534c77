"""A legend as rows of symbols and names above a plot, wrapped to its width."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.report.scene import Item, Line, Marker, Shape, Text, text_width

_SIZE = 12.0
_ROW = 20.0
_SYMBOL = 26.0
_GAP = 18.0


@dataclass(frozen=True)
class Entry:
    """One line of a legend; `shape` is None for a line without symbols."""

    name: str
    tone: str
    shape: Shape | None = "circle"
    hollow: bool = False
    line: bool = True
    width: float = 1.6
    dash: tuple[float, ...] = ()


def legend(entries: list[Entry], left: float, top: float, right: float) -> tuple[list[Item], float]:
    """Return the shapes of a legend between `left` and `right` and the y below it."""
    items: list[Item] = []
    x, y = left, top + _SIZE
    for entry in entries:
        width = _SYMBOL + text_width(entry.name, _SIZE)
        if x > left and x + width > right:
            x, y = left, y + _ROW
        middle = y - _SIZE * 0.35
        if entry.line:
            items.append(Line(((x, middle), (x + 20, middle)), entry.tone, entry.width, entry.dash))
        if entry.shape is not None:
            items.append(Marker(x + 10, middle, entry.tone, entry.shape, 7.5 if entry.line else 12.0, entry.hollow))
        items.append(Text(x + _SYMBOL, y, entry.name, _SIZE, "ink"))
        x += width + _GAP
    return items, y + _SIZE
