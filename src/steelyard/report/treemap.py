"""A treemap: areas are shares of a whole, squarified (Bruls, Huizing and van Wijk 2000)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.report.scene import Item, Rect, Scene, Text, text_width

_GAP = 1.5
_SMALLEST_LABEL = 44.0


@dataclass(frozen=True)
class Area:
    """One part of the whole.

    Attributes:
        name: written into it where it fits.
        size: its share of the whole, in any unit.
        detail: for those who point at it.
        tone: its colour.
        opacity: of the colour.
        parts: what it is made of; drawn inside instead of the area itself.
    """

    name: str
    size: float
    detail: str
    tone: str
    opacity: float = 1.0
    parts: tuple[Area, ...] = ()


@dataclass(frozen=True)
class _Box:
    x: float
    y: float
    width: float
    height: float


def treemap(areas: Sequence[Area], label: str, width: float = 860.0, height: float = 420.0) -> Scene | None:
    """Draw areas by size, the largest first; None if there is nothing to draw.

    Args:
        areas: the parts of the whole.
        label: what the picture shows, for those who cannot see it.
        width: of the drawing, in pixels.
        height: of the drawing, in pixels.
    """
    items: list[Item] = []
    _draw(areas, _Box(0.0, 0.0, width, height), items)
    return Scene(width, height, tuple(items), label) if items else None


def _draw(areas: Sequence[Area], room: _Box, items: list[Item]) -> None:
    shown = sorted((area for area in areas if area.size > 0), key=lambda area: -area.size)
    for area, box in zip(shown, _squarify([area.size for area in shown], room), strict=True):
        if area.parts:
            _draw(area.parts, box, items)
            _write(area.name, box, items, bold=True)
            continue
        gap = _GAP if min(box.width, box.height) > 4 * _GAP else 0.0
        items.append(
            Rect(box.x, box.y, box.width - gap, box.height - gap, area.tone, area.opacity, title=area.detail)
        )
        _write(area.name, box, items)


def _write(name: str, box: _Box, items: list[Item], bold: bool = False) -> None:
    if name and box.width >= max(_SMALLEST_LABEL, text_width(name, 12) + 8) and box.height >= 18:
        items.append(Text(box.x + 5, box.y + 15, name, 12, "ink", bold=bold))


def _squarify(sizes: Sequence[float], room: _Box) -> list[_Box]:
    """Boxes for sizes in falling order, as square as rows along the shorter side of what is left can be."""
    total = sum(sizes)
    if total <= 0:
        return []
    scale = room.width * room.height / total
    left = [size * scale for size in sizes]
    boxes: list[_Box] = []
    while left:
        side = min(room.width, room.height)
        count = 1
        while count < len(left) and _worst(left[: count + 1], side) <= _worst(left[:count], side):
            count += 1
        row, left = left[:count], left[count:]
        boxes += _row(row, room)
        depth = sum(row) / side if side else 0.0
        if room.width >= room.height:
            room = _Box(room.x + depth, room.y, max(0.0, room.width - depth), room.height)
        else:
            room = _Box(room.x, room.y + depth, room.width, max(0.0, room.height - depth))
    return boxes


def _row(row: Sequence[float], room: _Box) -> list[_Box]:
    upright = room.width >= room.height
    side = room.height if upright else room.width
    depth = sum(row) / side if side else 0.0
    boxes = []
    place = room.y if upright else room.x
    for area in row:
        length = area / depth if depth else 0.0
        boxes.append(_Box(room.x, place, depth, length) if upright else _Box(place, room.y, length, depth))
        place += length
    return boxes


def _worst(row: Sequence[float], side: float) -> float:
    """The most stretched box of a row: its longer side over the shorter."""
    total = sum(row)
    if total <= 0 or side <= 0:
        return float("inf")
    square = side * side
    return max(square * max(row) / total**2, total**2 / (square * min(row)) if min(row) > 0 else float("inf"))
