"""The loss along a path between models, as a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from steelyard.report.scales import linear_scale
from steelyard.report.scene import Item, Line, Marker, Scene, Text
from steelyard.report.svg import css_classes, svg
from steelyard.report.tones import css_variables


class Place(Protocol):
    """One place on the path."""

    @property
    def at(self) -> float:
        """From 0 to 1."""

    @property
    def loss(self) -> float:
        """Nats per token."""

    @property
    def low(self) -> float:
        """Lower end of the interval."""

    @property
    def high(self) -> float:
        """Upper end of the interval."""


def draw_path(places: Sequence[Place], label: str, width: float = 640.0, height: float = 320.0) -> str:
    """Return an SVG file of losses with their intervals, and the straight line between the ends.

    Args:
        places: along the path, in order.
        label: what it shows.
        width: in pixels.
        height: in pixels.
    """
    left, right, top, bottom = 72.0, width - 20.0, 34.0, height - 44.0
    x = linear_scale([0.0, 1.0], left, right, 0.0)
    y = linear_scale([value for place in places for value in (place.low, place.high)], bottom, top)
    items: list[Item] = [Text(left, 20, label, 13, "ink")]
    for tick in y.ticks(5):
        items.append(Line(((left, y(tick)), (right, y(tick))), "grid"))
        items.append(Text(left - 8, y(tick) + 4, f"{tick:g}", 12, "muted", "end"))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        items.append(Text(x(tick), bottom + 18, f"{tick:g}", 12, "muted", "middle"))
    items.append(Text(right, height - 8, "place on the path", 12, "muted", "end"))
    items.append(Text(14, (top + bottom) / 2, "loss, nats per token", 12, "muted", "middle", turned=True))
    ends = tuple((x(place.at), y(place.loss)) for place in (places[0], places[-1]))
    items.append(Line(ends, "muted", 1.2, (5, 4)))
    items.append(Line(tuple((x(place.at), y(place.loss)) for place in places), "accent", 2.0))
    for place in places:
        items.append(Line(((x(place.at), y(place.low)), (x(place.at), y(place.high))), "accent", 1.0))
        title = f"{place.at:.2f}: {place.loss:.4f} [{place.low:.4f}, {place.high:.4f}]"
        items.append(Marker(x(place.at), y(place.loss), "accent", size=6.0, title=title))
    drawn = svg(Scene(width, height, tuple(items), label))
    style = (
        f"<style>svg{{{css_variables(False)}background:var(--surface);font-family:sans-serif}}"
        f"@media(prefers-color-scheme:dark){{svg{{{css_variables(True)}}}}}{css_classes()}</style>"
    )
    start = drawn.index(">") + 1
    return f"{drawn[:start]}{style}{drawn[start:]}\n"
