"""Where the bytes went: two bars for each kind of tensor, before and after, on one scale."""

from __future__ import annotations

from steelyard.report import numbers
from steelyard.report.data import Sizes
from steelyard.report.legend import Entry, legend
from steelyard.report.scene import Rect, Scene, Text, text_width

_ROW = 44.0
_BAR = 13.0


def byte_bars(sizes: Sizes, width: float = 860.0) -> Scene | None:
    """Draw the bytes of each kind of tensor; None if they were not broken down."""
    rows = [row for row in sizes.roles if row.original > 0 or row.new > 0]
    if not rows:
        return None
    narrow = width < 500
    entries = [
        Entry(f"original, {numbers.size(sizes.original)}", "before", "square", line=False),
        Entry(f"written, {numbers.size(sizes.written)}", "accent", "square", line=False),
    ]
    items, y = legend(entries, 0.0, 0.0, width)
    left = 0.0 if narrow else 120.0
    most = max(max(row.original, row.new) for row in rows)
    widest = max(text_width(_change(row.original, row.new), 11) for row in rows)
    room = width - left - max(78.0, widest) - 10
    y += 8
    for row in rows:
        if narrow:
            items.append(Text(0, y + 11, row.role, 12, "ink"))
            y += 17
        else:
            items.append(Text(0, y + _BAR + 5, row.role, 12, "ink"))
        before, after = room * row.original / most, room * row.new / most
        title = f"{row.role}: {row.original:,} bytes before, {row.new:,} bytes after"
        items.append(Rect(left, y, max(before, 1.0), _BAR, "before", 1.0, 2, title))
        items.append(Rect(left, y + _BAR + 2, max(after, 1.0), _BAR, "accent", 1.0, 2, title))
        items.append(Text(left + max(before, 1.0) + 7, y + 10.5, numbers.size(row.original), 11))
        items.append(Text(left + max(after, 1.0) + 7, y + _BAR + 12.5, _change(row.original, row.new), 11, "ink"))
        y += _ROW
    label = "Bytes before and after. " + "; ".join(f"{row.role} {row.original:,} to {row.new:,}" for row in rows)
    return Scene(width, y - 8, tuple(items), label)


def _change(original: int, new: int) -> str:
    share = f" · {100 * new / original:.0f} %" if original > 0 else ""
    return numbers.size(new) + share
