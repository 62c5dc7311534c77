"""Plots of points, lines and bands as scenes, for pages and pictures alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.forecast.law import Array
from steelyard.report.legend import Entry, legend
from steelyard.report.scales import Scale, linear_scale, log_scale, power
from steelyard.report.scene import Item, Line, Marker, Rect, Scene, Shape, Text


@dataclass(frozen=True)
class Layer:
    """One thing to draw.

    Attributes:
        x: in the order they are joined.
        y: beside them; for a band its lower edge.
        tone: of the palette.
        name: in the legend; "" to leave it out.
        upper: of a band.
        line: joined, else points.
        dash: of the line.
        titles: shown on points.
    """

    x: Array
    y: Array
    tone: str
    name: str = ""
    upper: Array | None = None
    line: bool = False
    dash: tuple[float, ...] = ()
    shape: Shape = "circle"
    titles: Sequence[str] = ()


def plot(
    layers: Sequence[Layer],
    label: str,
    across: str,
    up: str,
    width: float = 860.0,
    height: float = 380.0,
    log_x: bool = True,
    log_y: bool = False,
) -> Scene:
    """Return layers on common axes.

    Args:
        layers: later ones lie above.
        label: what it shows, also its title.
        across: name of the horizontal axis.
        up: name of the vertical one.
        width: in pixels.
        height: in pixels.
        log_x: logarithmic axis across.
        log_y: logarithmic axis up.
    """
    left, right, bottom = 74.0, width - 18.0, height - 48.0
    entries = [
        Entry(layer.name, layer.tone, None if layer.line else layer.shape, line=layer.line, dash=layer.dash)
        for layer in layers
        if layer.name
    ]
    head, top = legend(entries, left, 30.0, right)
    xs = np.concatenate([layer.x for layer in layers])
    ys = np.concatenate(
        [np.concatenate([layer.y, *([] if layer.upper is None else [layer.upper])]) for layer in layers]
    )
    x = (log_scale if log_x else linear_scale)(xs[np.isfinite(xs)].tolist(), left, right)
    y = (log_scale if log_y else linear_scale)(ys[np.isfinite(ys)].tolist(), bottom, top + 6)
    items: list[Item] = [Text(left, 18, label, 13, "ink", bold=True), *head, *_grid(x, y, left, right, top, bottom)]
    items.append(Text(right, height - 10, across, 12, "muted", "end"))
    items.append(Text(16, 0.5 * (top + bottom), up, 12, "muted", "middle", turned=True))
    for layer in layers:
        items += _draw(layer, x, y)
    return Scene(width, height, tuple(items), label)


def _grid(x: Scale, y: Scale, left: float, right: float, top: float, bottom: float) -> list[Item]:
    items: list[Item] = []
    for tick in y.ticks(5):
        items.append(Line(((left, y(tick)), (right, y(tick))), "grid"))
        items.append(Text(left - 8, y(tick) + 4, _named(tick, y.log), 12, "muted", "end"))
    for tick in x.ticks(6):
        items.append(Line(((x(tick), top), (x(tick), bottom)), "grid"))
        items.append(Text(x(tick), bottom + 17, _named(tick, x.log), 12, "muted", "middle"))
    return items


def _named(tick: float, log: bool) -> str:
    return power(tick) if log and tick < 1 else f"{tick:.3g}"


def _draw(layer: Layer, x: Scale, y: Scale) -> list[Item]:
    places = [(x(a), y(b)) for a, b in zip(layer.x.tolist(), layer.y.tolist(), strict=True)]
    if layer.upper is not None:
        return _band(np.array(places), np.array([y(value) for value in layer.upper.tolist()]), layer.tone)
    if layer.line:
        return [Line(tuple(places), layer.tone, 2.0, layer.dash)]
    titles = layer.titles or [""] * len(places)
    return [
        Marker(a, b, layer.tone, layer.shape, 5.0, title=title)
        for (a, b), title in zip(places, titles, strict=True)
    ]


def _band(lower: Array, upper: Array, tone: str) -> list[Item]:
    """A band as columns two pixels wide."""
    columns = np.arange(lower[0, 0], lower[-1, 0], 2.0)
    low = np.interp(columns + 1.0, lower[:, 0], lower[:, 1])
    high = np.interp(columns + 1.0, lower[:, 0], upper)
    return [
        Rect(float(x), float(min(a, b)), 2.0, float(abs(a - b)), tone, 0.2)
        for x, a, b in zip(columns, low, high, strict=True)
    ]
