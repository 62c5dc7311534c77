"""The Pareto curve: damage against bytes, ours and the baselines', with intervals and the budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steelyard.report import numbers
from steelyard.report.data import KL, CurvePoint, Damage, Series
from steelyard.report.image import save_png
from steelyard.report.legend import Entry, legend
from steelyard.report.scales import Scale, drawable, linear_scale, log_scale, power
from steelyard.report.scene import Item, Line, Marker, Scene, Shape, Text
from steelyard.report.tones import BASELINES

_SHAPES: tuple[Shape, ...] = ("square", "triangle", "diamond", "wedge", "cross", "plus")
_DASHES: tuple[tuple[float, ...], ...] = ((), (7, 3), (2, 3), (9, 3, 2, 3), (4, 2), (12, 4))
_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("bytes", 1))


def pareto(
    curves: Sequence[Series],
    damage: Damage = KL,
    *,
    parameters: int | None = None,
    budget: int | None = None,
    width: float = 860.0,
    height: float = 440.0,
) -> Scene | None:
    """Draw the curves; the first is ours.

    Args:
        curves: at least one of them with two points of damage above zero, or there is nothing to draw.
        damage: what the vertical axis measures.
        parameters: stored parameters, for the axis of bits per parameter at the top.
        budget: bytes, drawn as a line.
        width: of the drawing, in pixels; below 500 it is laid out for a phone.
        height: of the drawing, in pixels.
    """
    shown = [Series(series.name, _drawable_points(series)) for series in curves]
    points = [point for series in shown for point in series.points]
    if not any(len(series.points) > 1 for series in shown):
        return None
    left, right, bottom = 62.0, width - 16.0, height - 52.0
    items, top = legend(_entries(shown), 4.0, 2.0, right)
    top += 40.0 if parameters else 14.0
    unit, factor = next(pair for pair in _UNITS if max(point.nbytes for point in points) >= pair[1])
    sizes = [point.nbytes / factor for point in points] + ([budget / factor] if budget else [])
    x = linear_scale(sizes, left, right)
    y = log_scale(_heights(points), bottom, top)
    items += _grid(x, y, damage, unit, width)
    if parameters:
        items += _bits_axis(x, factor, parameters, top, width)
    if budget:
        place = x(budget / factor)
        end = place > (left + right) / 2
        items.append(Line(((place, top), (place, bottom)), "ink", 1.2, (5, 4)))
        items.append(
            Text(
                place - 6 if end else place + 6,
                top + 14,
                f"budget {numbers.size(budget)}",
                12,
                "ink",
                "end" if end else "start",
            )
        )
    for index, series in reversed(list(enumerate(shown))):
        items += _series(series, index, x, y, factor, damage, parameters)
    return Scene(width, height, tuple(items), _description(shown, damage))


def pareto_png(
    path: Path,
    curves: Sequence[Series],
    damage: Damage = KL,
    *,
    parameters: int | None = None,
    budget: int | None = None,
    width: float = 860.0,
    height: float = 440.0,
) -> Path | None:
    """Write the Pareto curve as PNG; None, and no file, if there are too few points.

    Raises:
        UserError: if matplotlib is not installed.
    """
    scene = pareto(curves, damage, parameters=parameters, budget=budget, width=width, height=height)
    return None if scene is None else save_png(scene, path)


def _drawable_points(series: Series) -> tuple[CurvePoint, ...]:
    points = [point for point in series.points if drawable(point.damage.value) and point.nbytes > 0]
    return tuple(sorted(points, key=lambda point: point.nbytes))


def _heights(points: Sequence[CurvePoint]) -> list[float]:
    """Everything the vertical axis must hold; intervals reach down at most a decade below their value."""
    values = []
    for point in points:
        values.append(point.damage.value)
        values += [value for value in (point.predicted, point.damage.high) if value is not None and drawable(value)]
        if point.damage.low is not None:
            values.append(max(point.damage.low, point.damage.value / 10))
    return values


def _entries(shown: Sequence[Series]) -> list[Entry]:
    entries = []
    for index, series in enumerate(shown):
        if index == 0:
            entries.append(Entry(series.name, "accent", width=2.4))
            if any(point.predicted is not None for point in series.points):
                entries.append(Entry("predicted", "accent", None, width=1.4, dash=(2, 3)))
        else:
            tone, shape, dash = _style(index)
            entries.append(Entry(series.name, tone, shape, hollow=True, dash=dash))
    return entries


def _style(index: int) -> tuple[str, Shape, tuple[float, ...]]:
    place = index - 1
    return BASELINES[place % len(BASELINES)], _SHAPES[place % len(_SHAPES)], _DASHES[place % len(_DASHES)]


def _grid(x: Scale, y: Scale, damage: Damage, unit: str, width: float) -> list[Item]:
    items: list[Item] = []
    for tick in y.ticks(7):
        items.append(Line(((x.start, y(tick)), (x.end, y(tick))), "grid"))
        items.append(Text(x.start - 8, y(tick) + 4, power(tick), 12, "muted", "end"))
    for tick in x.ticks(4 if width < 500 else 8):
        items.append(Line(((x(tick), y.start), (x(tick), y.start + 5)), "rule"))
        items.append(Text(x(tick), y.start + 20, f"{tick:g}", 12, "muted", "middle"))
    items.append(Line(((x.start, y.start), (x.end, y.start)), "rule", 1.2))
    items.append(Text(x.end, y.start + 42, f"{unit} on disk", 12, "muted", "end"))
    items.append(Text(14, (y.start + y.end) / 2, damage.label, 12, "muted", "middle", turned=True))
    return items


def _bits_axis(x: Scale, factor: int, parameters: int, top: float, width: float) -> list[Item]:
    """Bits per parameter are bytes times a constant: the same axis with other names."""
    ratio = 8 * factor / parameters
    bits = Scale(x.low * ratio, x.high * ratio, x.start, x.end)
    items: list[Item] = [Text(x.end, top - 26, "bits per stored parameter", 12, "muted", "end")]
    for tick in bits.ticks(4 if width < 500 else 8):
        items.append(Line(((bits(tick), top - 5), (bits(tick), top)), "rule"))
        items.append(Text(bits(tick), top - 9, f"{tick:g}", 12, "muted", "middle"))
    items.append(Line(((x.start, top), (x.end, top)), "rule"))
    return items


def _series(
    series: Series, index: int, x: Scale, y: Scale, factor: int, damage: Damage, parameters: int | None
) -> list[Item]:
    ours = index == 0
    tone, shape, dash = ("accent", "circle", ()) if ours else _style(index)
    items: list[Item] = []
    for point in series.points:
        low, high = point.damage.low, point.damage.high
        if low is not None and high is not None and drawable(high):
            place = x(point.nbytes / factor)
            items.append(Line(((place, y(max(low, y.low))), (place, y(high))), tone, 4.0 if ours else 3.0, (), 0.3))
    predicted = [
        (x(point.nbytes / factor), y(point.predicted))
        for point in series.points
        if ours and point.predicted is not None and drawable(point.predicted)
    ]
    if len(predicted) > 1:
        items.append(Line(tuple(predicted), tone, 1.4, (2, 3)))
    path = tuple((x(point.nbytes / factor), y(point.damage.value)) for point in series.points)
    if len(path) > 1:
        items.append(Line(path, tone, 2.4 if ours else 1.5, dash))
    for point, (left, top) in zip(series.points, path, strict=True):
        title = _title(series.name, point, damage, parameters)
        if point.chosen:
            items.append(Marker(left, top, tone, "circle", 16, hollow=True))
        items.append(Marker(left, top, tone, shape, 8.5 if ours else 7.5, hollow=not ours, title=title))
    return items


def _title(name: str, point: CurvePoint, damage: Damage, parameters: int | None) -> str:
    lines = [name + (" (this result)" if point.chosen else ""), f"{point.nbytes:,} bytes"]
    if parameters:
        lines.append(f"{8 * point.nbytes / parameters:.3f} bits per stored parameter")
    lines.append(f"{damage.name} {numbers.with_bounds(point.damage)} {damage.unit}")
    if point.predicted is not None:
        lines.append(f"predicted {numbers.figure(point.predicted)}")
    if point.loss is not None:
        lines.append(f"loss {numbers.with_bounds(point.loss)}")
    return "\n".join(lines)


def _description(shown: Sequence[Series], damage: Damage) -> str:
    parts = []
    for series in shown:
        steps = ", ".join(f"{point.nbytes:,} bytes {numbers.figure(point.damage.value)}" for point in series.points)
        parts.append(f"{series.name}: {steps}")
    return f"{damage.name} in {damage.unit} by bytes on disk. " + ". ".join(parts) + "."
