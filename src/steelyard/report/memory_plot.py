"""Memory against context: the weights as a floor, and for each batch what is kept of the context on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.report import numbers
from steelyard.report.legend import Entry, legend
from steelyard.report.scales import Scale, linear_scale, log_scale
from steelyard.report.scene import Item, Line, Marker, Scene, Text
from steelyard.report.tones import BASELINES

_UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("bytes", 1))


@dataclass(frozen=True)
class MemoryCurve:
    """One line: its name, and (tokens of context, bytes of weights and cache) from left to right."""

    name: str
    points: tuple[tuple[int, int], ...]


def memory_plot(
    curves: Sequence[MemoryCurve], weights: int, width: float = 860.0, height: float = 380.0
) -> Scene | None:
    """Draw memory against context; None if no curve has two points.

    Args:
        curves: at most seven.
        weights: bytes of the weights, drawn as a line of its own.
        width: of the drawing, in pixels.
        height: of the drawing, in pixels.
    """
    shown = [curve for curve in curves if len(curve.points) > 1]
    if not shown:
        return None
    tones = ["accent", *BASELINES]
    entries = [Entry(curve.name, tones[place % len(tones)]) for place, curve in enumerate(shown)]
    items, top = legend([*entries, Entry("weights alone", "ink", None, dash=(5, 4))], 4.0, 2.0, width - 16)
    top += 12
    left, right, bottom = 74.0, width - 16.0, height - 50.0
    largest = max([weights, *(size for curve in shown for _, size in curve.points)])
    unit, factor = next(pair for pair in _UNITS if largest >= pair[1] or pair[1] == 1)
    x = log_scale([tokens for curve in shown for tokens, _ in curve.points], left, right)
    y = linear_scale([0.0, largest / factor], bottom, top)
    items += _grid(x, y, unit)
    floor = y(weights / factor)
    items.append(Line(((left, floor), (right, floor)), "ink", 1.2, (5, 4)))
    for place, curve in enumerate(shown):
        tone = tones[place % len(tones)]
        path = tuple((x(tokens), y(size / factor)) for tokens, size in curve.points)
        items.append(Line(path, tone, 2.0))
        for (tokens, size), (a, b) in zip(curve.points, path, strict=True):
            title = f"{curve.name}\n{tokens:,} tokens\n{numbers.size(size)} ({size:,} bytes)"
            items.append(Marker(a, b, tone, "circle", 6.0, title=title))
    label = "Memory against context. " + "; ".join(
        f"{curve.name}: {numbers.size(curve.points[-1][1])} at {curve.points[-1][0]:,} tokens" for curve in shown
    )
    return Scene(width, height, tuple(items), label)


def _grid(x: Scale, y: Scale, unit: str) -> list[Item]:
    items: list[Item] = []
    for tick in y.ticks(6):
        items.append(Line(((x.start, y(tick)), (x.end, y(tick))), "grid"))
        items.append(Text(x.start - 8, y(tick) + 4, f"{tick:g}", 12, "muted", "end"))
    power = 1
    while power <= x.high:
        if power >= x.low:
            items.append(Line(((x(power), y.start), (x(power), y.start + 5)), "rule"))
            name = f"{power >> 20}Mi" if power >= 1 << 20 else f"{power >> 10}Ki" if power >= 1024 else str(power)
            items.append(Text(x(power), y.start + 20, name, 12, "muted", "middle"))
        power *= 2 if x.high / x.low < 600 else 4
    items.append(Line(((x.start, y.start), (x.end, y.start)), "rule", 1.2))
    items.append(Text(x.end, y.start + 40, "tokens of context", 12, "muted", "end"))
    items.append(Text(14, (y.start + y.end) / 2, f"{unit} of memory", 12, "muted", "middle", turned=True))
    return items
