"""Predicted against measured damage, both on logarithmic axes, with the line on which they are equal."""

from __future__ import annotations

from collections.abc import Sequence

from steelyard.report import numbers
from steelyard.report.data import KL, Damage, Prediction
from steelyard.report.scales import Scale, drawable, log_scale, power
from steelyard.report.scene import Item, Line, Marker, Scene, Text


def prediction_scatter(pairs: Sequence[Prediction], damage: Damage = KL, width: float = 390.0) -> Scene | None:
    """Draw the pairs; None if fewer than two of them are above zero."""
    shown = [pair for pair in pairs if drawable(pair.predicted) and drawable(pair.measured.value)]
    if len(shown) < 2:
        return None
    height = width * 0.9
    values = [value for pair in shown for value in (pair.predicted, pair.measured.value)]
    left, bottom = 62.0, height - 48.0
    x = log_scale(values, left, width - 14.0)
    y = Scale(x.low, x.high, bottom, 10.0, log=True)
    items: list[Item] = []
    for tick in x.ticks(5):
        items.append(Line(((left, y(tick)), (x.end, y(tick))), "grid"))
        items.append(Line(((x(tick), bottom), (x(tick), y.end)), "grid"))
        items.append(Text(left - 8, y(tick) + 4, power(tick), 12, "muted", "end"))
        items.append(Text(x(tick), bottom + 18, power(tick), 12, "muted", "middle"))
    items.append(Line(((x.start, y.start), (x.end, y.end)), "muted", 1.2, (5, 4)))
    items.append(Text(x.end, height - 6, f"predicted {damage.label}", 12, "muted", "end"))
    items.append(Text(14, (bottom + y.end) / 2, f"measured {damage.name}", 12, "muted", "middle", turned=True))
    for pair in shown:
        low, high = pair.measured.low, pair.measured.high
        if low is not None and high is not None and drawable(high):
            place = x(pair.predicted)
            items.append(Line(((place, y(max(low, y.low))), (place, y(high))), "accent", 4.0, (), 0.3))
    for pair in shown:
        title = (
            f"{pair.label}\npredicted {numbers.figure(pair.predicted)}\n"
            f"measured {numbers.with_bounds(pair.measured)} {damage.unit}"
        )
        items.append(Marker(x(pair.predicted), y(pair.measured.value), "accent", "circle", 8.5, title=title))
    label = f"Predicted and measured {damage.name}. " + "; ".join(
        f"{pair.label}: {numbers.figure(pair.predicted)} and {numbers.figure(pair.measured.value)}"
        for pair in shown
    )
    return Scene(width, height, tuple(items), label)
