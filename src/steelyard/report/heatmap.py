"""The heat map: bits per weight of every layer and role, with the damage predicted for each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steelyard.report import numbers
from steelyard.report.data import KL, Damage, TensorRow
from steelyard.report.roles import column, column_order
from steelyard.report.scene import Item, Rect, Scene, Text, text_width

_ROW = 26.0
_GAP = 2.0
_HEADING = 18.0
# Opacities of the accent from which black reads better than white on dark paper, and white better than black on
# light paper: there both have a contrast of 4.5.
_MEDIUM = 0.65
_STRONG = 0.86


@dataclass(frozen=True)
class _Cell:
    bits: float
    label: str
    title: str


@dataclass(frozen=True)
class _Frame:
    """Where the cells may stand between the names of the rows and the bars at their end."""

    width: float
    strained: bool

    @property
    def narrow(self) -> bool:
        return self.width < 500

    @property
    def bars(self) -> bool:
        return self.strained and not self.narrow

    @property
    def left(self) -> float:
        return 44.0 if self.narrow else 64.0

    @property
    def right(self) -> float:
        return self.width - (150.0 if self.bars else 0.0)


def heat_map(tensors: Sequence[TensorRow], damage: Damage = KL, width: float = 860.0) -> Scene | None:
    """Draw bits per weight by layer (downwards) and role (across); None if no tensor has a place in it.

    Tensors outside the layers stand in a strip at the top. Cells of several tensors (experts) show their mean.
    """
    cells = _cells(tensors, damage)
    if not cells:
        return None
    layers = sorted({layer for layer, _ in cells if layer is not None})
    strain = _layer_damage(tensors) if layers else {}
    frame = _Frame(width, bool(strain))
    items, y = _legend([cell.bits for cell in cells.values()])
    outside = {name: cell for (layer, name), cell in cells.items() if layer is None}
    if outside:
        items += _strip(outside, frame, y)
        y += _HEADING + _ROW + 16
    if layers:
        items += _grid(cells, layers, frame, y)
        if frame.bars:
            items += _damage_bars(layers, strain, frame, y, damage)
        y += _HEADING + len(layers) * _ROW
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


def _legend(found: Sequence[float]) -> tuple[list[Item], float]:
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
    shade = _shade(bits)
    return "on-strong" if shade >= _STRONG else "on-medium" if shade >= _MEDIUM else "on-weak"


def _strip(outside: Mapping[str, _Cell], frame: _Frame, top: float) -> list[Item]:
    names = column_order(outside)
    step = (frame.right - frame.left) / max(len(names), 2 if frame.narrow else 4)
    items: list[Item] = [_row_name(top + _HEADING, "out" if frame.narrow else "outside")]
    for index, name in enumerate(names):
        x = frame.left + index * step
        items.append(_column_name(x, top, step, name))
        items += _cell(outside[name], x, top + _HEADING, step)
    return items


def _grid(
    cells: Mapping[tuple[int | None, str], _Cell], layers: Sequence[int], frame: _Frame, top: float
) -> list[Item]:
    names = column_order(name for layer, name in cells if layer is not None)
    step = (frame.right - frame.left) / max(len(names), 3)
    places = [frame.left + index * step for index in range(len(names))]
    items: list[Item] = [_column_name(x, top, step, name) for x, name in zip(places, names, strict=True)]
    for number, layer in enumerate(layers):
        y = top + _HEADING + number * _ROW
        items.append(_row_name(y, str(layer) if frame.narrow else f"layer {layer}"))
        for x, name in zip(places, names, strict=True):
            if (layer, name) in cells:
                items += _cell(cells[layer, name], x, y, step)
    return items


def _row_name(y: float, name: str) -> Text:
    return Text(0, y + (_ROW - _GAP) / 2 + 4, name, 12)


def _column_name(x: float, y: float, step: float, name: str) -> Text:
    return Text(x + (step - _GAP) / 2, y + 11, _fit(name, step), 12, "muted", "middle")


def _cell(cell: _Cell, x: float, y: float, step: float) -> list[Item]:
    ink = _ink(cell.bits)
    number = f"{cell.bits:.2f}" if text_width("0.00", 12) + 6 < step else f"{cell.bits:.1f}"
    middle = y + (_ROW - _GAP) / 2 + 4
    box = Rect(x, y, step - _GAP, _ROW - _GAP, "accent", _shade(cell.bits), 3, cell.title)
    label = cell.label.removesuffix(" sym")
    if text_width(number, 12) + text_width(label, 10) + 22 > step:
        return [box, Text(x + (step - _GAP) / 2, middle, number, 12, ink, "middle")]
    return [box, Text(x + 8, middle, number, 12, ink), Text(x + step - _GAP - 8, middle, label, 10, ink, "end")]


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
    layers: Sequence[int], strain: Mapping[int, float], frame: _Frame, top: float, damage: Damage
) -> list[Item]:
    left = frame.right + 18
    room = frame.width - 4 - left - 58
    most = max(strain.values())
    items: list[Item] = [Text(left, top + 11, f"predicted {damage.name}", 12)]
    for number, layer in enumerate(layers):
        value = strain.get(layer, 0.0)
        y = top + _HEADING + number * _ROW
        width = max(1.0, room * max(0.0, value) / most)
        title = f"layer {layer}: predicted {damage.name} {numbers.figure(value)} {damage.unit}"
        items.append(Rect(left, y + 6, width, _ROW - _GAP - 12, "muted", 0.55, 2, title))
        items.append(Text(left + width + 6, y + (_ROW - _GAP) / 2 + 4, numbers.figure(value, 2), 11))
    return items
