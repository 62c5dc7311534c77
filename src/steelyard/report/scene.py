"""A drawing as data: shapes in pixels, y downwards, coloured by purpose. Written as SVG and as PNG alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Anchor = Literal["start", "middle", "end"]
Shape = Literal["circle", "square", "diamond", "triangle", "cross", "plus", "wedge"]

# Mean advance of a sans-serif glyph in units of its size; a little wide, so that nothing collides.
_GLYPH = 0.58


@dataclass(frozen=True)
class Rect:
    """A filled rectangle; `title` appears on hover."""

    x: float
    y: float
    width: float
    height: float
    tone: str
    opacity: float = 1.0
    radius: float = 0.0
    title: str = ""


@dataclass(frozen=True)
class Line:
    """A stroke through points (x, y); `dash` is empty or pairs of drawn and blank pixels."""

    points: tuple[tuple[float, float], ...]
    tone: str
    width: float = 1.0
    dash: tuple[float, ...] = ()
    opacity: float = 1.0


@dataclass(frozen=True)
class Marker:
    """A symbol of `size` pixels centred at (x, y), filled or hollow; `title` appears on hover."""

    x: float
    y: float
    tone: str
    shape: Shape = "circle"
    size: float = 8.0
    hollow: bool = False
    title: str = ""


@dataclass(frozen=True)
class Text:
    """One line of text; y is its baseline. `turned` runs it upwards."""

    x: float
    y: float
    text: str
    size: float = 12.0
    tone: str = "muted"
    anchor: Anchor = "start"
    bold: bool = False
    turned: bool = False


Item = Rect | Line | Marker | Text


@dataclass(frozen=True)
class Scene:
    """A finished drawing.

    Attributes:
        label: what it shows, for those who cannot see it.
    """

    width: float
    height: float
    items: tuple[Item, ...]
    label: str


def text_width(text: str, size: float) -> float:
    """Return about how wide a line of text is, in pixels."""
    return len(text) * size * _GLYPH


def outline(marker: Marker) -> Sequence[tuple[float, float]]:
    """Return the corners of a marker that is a polygon; empty for circle, cross and plus."""
    x, y, half = marker.x, marker.y, marker.size / 2
    wide = half * 1.15
    match marker.shape:
        case "square":
            edge = half * 0.9
            return [(x - edge, y - edge), (x + edge, y - edge), (x + edge, y + edge), (x - edge, y + edge)]
        case "diamond":
            return [(x, y - wide), (x + wide, y), (x, y + wide), (x - wide, y)]
        case "triangle":
            return [(x, y - wide), (x + wide, y + half * 0.85), (x - wide, y + half * 0.85)]
        case "wedge":
            return [(x, y + wide), (x + wide, y - half * 0.85), (x - wide, y - half * 0.85)]
        case _:
            return []


def strokes(marker: Marker) -> Sequence[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the strokes of a cross or a plus; empty for the other shapes."""
    x, y, half = marker.x, marker.y, marker.size / 2
    match marker.shape:
        case "cross":
            return [
                ((x - half, y - half), (x + half, y + half)),
                ((x - half, y + half), (x + half, y - half)),
            ]
        case "plus":
            wide = half * 1.15
            return [((x - wide, y), (x + wide, y)), ((x, y - wide), (x, y + wide))]
        case _:
            return []
