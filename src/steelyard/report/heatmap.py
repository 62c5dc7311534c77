"""The heat map: bits per weight of every layer and role, with the damage predicted for each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.report import numbers
from steelyard.report.data import KL, Damage, TensorRow
from steelyard.report.roles import column, column_order
from steelyard.report.scene import Item, Rect, Scene, Text, text_width

_ROW = 26.0
_GAP = 2.0
_STRONG = 0.72
"""Opacity of the accent from which on text is set in the colour made for it."""


@dataclass(frozen=True)
class _Cell:
    bits: float
    label: str
    title: str


def heat_map(tensors: Sequence[TensorRow], damage: Damage = KL, width: float = 860.0) -> Scene | None:
    """Draw bits per weight by layer (downwards) and role (across); None if no tensor has a place in it.

    Tensors outside the layers stand in a strip at the top. Cells of several tensors (experts) show their mean.
    """
    cells = _cells(tensors, damage)
    if not cells:
        return None
    narrow = width < 500
    layers = sorted({layer for layer, _ in cells if layer is not None})
    columns = column_order(name for layer, name in cells if layer is not None)
    outside = column_order(name for layer, name in cells if layer is None)
    strain = _layer_damage(tensors)
    left = 44.0 if narrow else 64.0
    right = width - (0.0 if narrow or not strain or not layers else 150.0)
    items, y = _legend(cells, left)
    if outside:
        items += [_cell_text(0, y + 18 + _ROW / 2, "outside" if not narrow else "out")]
        items += _strip(cells, outside, left, width if not layers else right, y, narrow)
        y += 18 + _ROW + 16
    if layers:
        items += _grid(cells, layers, columns, left, right, y, narrow)
        if right < width:
            items += _damage_bars(layers, strain, right + 18, width - 4, y, damage)
        y += 18 + len(layers) * _ROW
    label = "Bits per weight by layer and role. " + "; ".join(
        f"{'outside' if layer is None else f'layer {layer}'} {name} {cell.bits:.2f}"
        for (layer, name), cell in sorted(cells.items(), key=lambda item: (item[0][0] or -1, item[0][1]))
    )
    return Scene(width, y + 4, tuple(items), label)


def _cells(tensors: Sequence[TensorRow], damage: Damage) -> dict[tuple[int | None, str], _Cell]:
    places: dict[tuple[int | None, str], list[TensorRow]] = {}
    for row in tensors:
        name = column(row.role, row.layer)
        if name is not None and row.bits > 0:
            places.setdefault((row.layer, name), []).append(row)
    return {place: _merge(rows, damage) for place, rows in places.items()}


def _merge(rows: Sequence[TensorRow], damage: Damage) -> _Cell:
    weights = sum(row.nbytes * 8 / row.bits for row in rows)
    bits = sum(row.nbytes * 8 for row in rows) / weights if weights else rows[0].bits
    labels = sorted({row.label for row in rows})
    title = [
        rows[0].name if len(rows) == 1 else f"{len(rows)} tensors, such as {rows[0].name}",
        ", ".join(labels[:6]),
        f"{bits:.3f} bits per weight, {sum(row.nbytes for row in rows):,} bytes",
    ]
    known = [row.damage for row in rows if row.damage is not None]
    if known:
        title.append(f"predicted {damage.name} {numbers.figure(sum(known))} {damage.unit}")
    errors = [row.error for row in rows if row.error is not None]
    if errors:
        title.append(f"relative error {numbers.figure(max(errors))}" + (" at most" if len(errors) > 1 else ""))
    return _Cell(bits, labels[0] if len(labels) == 1 else "mixed", "\n".join(title))


def _shade(bits: float) -> float:
    """Opacity of the accent: rises with the logarithm, from 1.5 bits to 16."""
    share = math.log(max(bits, 1.5) / 1.5) / math.log(16 / 1.5)
    return min(1.0, 0.1 + 0.9 * share)


def _legend(cells: dict[tuple[int | None, str], _Cell], left: float) -> tuple[list[Item], float]:
    found = [cell.bits for cell in cells.values()]
    shown = [bits for bits in (2, 3, 4, 6, 8, 16) if min(found) - 1 <= bits <= max(found) + 2] or [
        round(min(found))
    ]
    items: list[Item] = [Text(0, 13, "bits per weight", 12)]
    x = text_width("bits per weight", 12) + 10
    for bits in shown:
        items.append(Rect(x, 0, 30, 18, "accent", _shade(bits), 3))
        items.append(Text(x + 15, 13, str(bits), 12, _ink(bits), "middle"))
        x += 32
    return items, 36.0


def _ink(bits: float) -> str:
    return "on-accent" if _shade(bits) >= _STRONG else "ink"


def _strip(
    cells: dict[tuple[int | None, str], _Cell],
    names: list[str],
    left: float,
    right: float,
    top: float,
    narrow: bool,
) -> list[Item]:
    items: list[Item] = []
    step = (right - left) / max(len(names), 2 if narrow else 4)
    for index, name in enumerate(names):
        x = left + index * step
        items.append(Text(x + (step - _GAP) / 2, top + 11, _fit(name, step), 12, "muted", "middle"))
        items += _cell(cells[None, name], x, top + 18, step, narrow)
    return items


def _grid(
    cells: dict[tuple[int | None, str], _Cell],
    layers: list[int],
    columns: list[str],
    left: float,
    right: float,
    top: float,
    narrow: bool,
) -> list[Item]:
    items: list[Item] = []
    step = (right - left) / max(len(columns), 3)
    for index, name in enumerate(columns):
        items.append(
            Text(left + index * step + (step - _GAP) / 2, top + 11, _fit(name, step), 12, "muted", "middle")
        )
    for number, layer in enumerate(layers):
        y = top + 18 + number * _ROW
        items.append(_cell_text(0, y + _ROW / 2, str(layer) if narrow else f"layer {layer}"))
        for index, name in enumerate(columns):
            cell = cells.get((layer, name))
            if cell is not None:
                items += _cell(cell, left + index * step, y, step, narrow)
    return items


def _cell_text(x: float, middle: float, text: str) -> Text:
    return Text(x, middle + 3, text, 12, "muted")


def _cell(cell: _Cell, x: float, y: float, step: float, narrow: bool) -> list[Item]:
    ink = _ink(cell.bits)
    number = f"{cell.bits:.1f}" if narrow else f"{cell.bits:.2f}"
    middle = y + (_ROW - _GAP) / 2 + 4
    box = Rect(x, y, step - _GAP, _ROW - _GAP, "accent", _shade(cell.bits), 3, cell.title)
    label = cell.label.removesuffix(" sym")
    if text_width(number, 12) + text_width(label, 10) + 22 > step:
        return [box, Text(x + (step - _GAP) / 2, middle, number, 12, ink, "middle")]
    return [
        box,
        Text(x + 8, middle, number, 12, ink),
        Text(x + step - _GAP - 8, middle, label, 10, ink, "end"),
    ]


def _fit(name: str, step: float) -> str:
    """The name, its first word, or as much as there is room for."""
    if text_width(name, 12) <= step:
        return name
    first = name.split(" ")[0]
    return first if text_width(first, 12) <= step else first[: max(1, int(step / 7))]


def _layer_damage(tensors: Sequence[TensorRow]) -> dict[int, float]:
    sums: dict[int, float] = {}
    for row in tensors:
        if row.layer is not None and row.damage is not None and math.isfinite(row.damage):
            sums[row.layer] = sums.get(row.layer, 0.0) + row.damage
    return sums if any(value > 0 for value in sums.values()) else {}


def _damage_bars(
    layers: list[int], strain: dict[int, float], left: float, right: float, top: float, damage: Damage
) -> list[Item]:
    items: list[Item] = [Text(left, top + 11, f"predicted {damage.name}", 12)]
    most = max(strain.values())
    room = right - left - 58
    for number, layer in enumerate(layers):
        value = strain.get(layer, 0.0)
        y = top + 18 + number * _ROW
        width = max(1.0, room * max(0.0, value) / most)
        title = f"layer {layer}: predicted {damage.name} {numbers.figure(value)} {damage.unit}"
        items.append(Rect(left, y + 6, width, _ROW - _GAP - 12, "muted", 0.55, 2, title))
        items.append(Text(left + width + 6, y + (_ROW - _GAP) / 2 + 4, numbers.figure(value, 2), 11))
    return items
