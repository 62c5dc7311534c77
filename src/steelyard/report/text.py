"""The same figures for terminals: tables drawn by rich."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from steelyard.report import numbers
from steelyard.report.data import KL, Damage, Metric, ReportData, Series, Sizes
from steelyard.report.summary import metric_text, ratio, summary

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

__all__ = ["byte_table", "certificate_table", "curve_table", "fit_table", "format_table", "metric_table", "summary"]

_STYLES = {"pass": "green", "better": "green", "fail": "bold red", "skipped": "dim"}


def fit_table(data: ReportData) -> Group:
    """Return everything about one result: sentence, measurements, bytes, curve, formats and certificates."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(summary(data), style="bold")]
    if data.metrics:
        parts.append(metric_table(data.metrics))
    for pair in data.all_predictions():
        if pair.label == "this result":
            parts.append(Text(f"predicted {numbers.figure(pair.predicted, 3)}; measured is {ratio(pair)} that"))
    if data.sizes.roles:
        parts.append(byte_table(data.sizes))
    if data.curve:
        parts.append(curve_table(data.curve, data.damage, data.sizes.parameters))
    if data.formats:
        parts.append(format_table(data))
    if data.certificates:
        parts.append(certificate_table(data))
    parts += [Text(f"note: {note}", style="dim") for note in data.notes]
    spaced: list[RenderableType] = []
    for part in parts:
        spaced += [part, Text("")]
    return Group(*spaced[:-1])


def metric_table(metrics: Sequence[Metric], title: str = "before and after") -> Table:
    """Return measurements before and after with their 95 % intervals."""
    rows = []
    for metric in metrics:
        row = metric_text(metric)
        rows.append([row.name, row.base, row.new, row.bounds, row.change, row.verdict])
    return _table(title, ["metric", "base", "result", "95 % interval", "change, paired", ""], rows, words=(0, 5))


def curve_table(curves: Sequence[Series], damage: Damage = KL, parameters: int | None = None) -> Table:
    """Return the points of every curve: bytes, bits per parameter, measured and predicted damage, loss."""
    rows: list[list[str]] = []
    chosen: list[int] = []
    for series in curves:
        for point in series.points:
            if point.chosen:
                chosen.append(len(rows))
            rows.append(
                [
                    series.name + (" *" if point.chosen else ""),
                    numbers.exact(point.nbytes),
                    f"{8 * point.nbytes / parameters:.3f}" if parameters else "",
                    numbers.measured(point.damage),
                    numbers.bounds(point.damage),
                    "" if point.predicted is None else numbers.figure(point.predicted, 3),
                    "" if point.loss is None else numbers.measured(point.loss),
                ]
            )
    headings = ["method", "bytes", "bits", damage.label, "95 % interval", "predicted", "loss"]
    table = _table("the curve", headings, rows, bold=chosen)
    table.caption = "* this result" if chosen else None
    return table


def byte_table(sizes: Sizes) -> Table:
    """Return where the bytes went, kind by kind."""
    kinds = [(row.role, row.original, row.new) for row in sizes.roles] + [("total", sizes.original, sizes.written)]
    rows = [
        [name, numbers.exact(old), numbers.exact(new), _percent(new, old), _percent(new, sizes.written)]
        for name, old, new in kinds
    ]
    headings = ["kind", "original", "written", "of original", "of written"]
    table = _table("where the bytes went", headings, rows, bold=(len(rows) - 1,))
    if sizes.budget is not None:
        step = "" if sizes.step is None else f"; next improvement {sizes.step:,}"
        table.caption = f"budget {sizes.budget:,}, {sizes.budget - sizes.written:,} left{step}"
    return table


def format_table(data: ReportData) -> Table:
    """Return what each output format costs at the same budget."""
    rows = [
        [row.name, numbers.exact(row.nbytes), numbers.measured(row.damage), numbers.bounds(row.damage), row.detail]
        for row in data.formats
    ]
    headings = ["format", "bytes", data.damage.label, "95 % interval", ""]
    return _table("formats at the same budget", headings, rows, words=(0, 4))


def certificate_table(data: ReportData) -> Table:
    """Return what was checked, and how it came out."""
    rows = [[item.name, item.status, item.detail] for item in data.certificates]
    return _table("checked", ["certificate", "status", "detail"], rows, words=(0, 1, 2))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole > 0 else ""


def _table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    words: Collection[int] = (0,),
    bold: Collection[int] = (),
) -> Table:
    """A table without its empty columns; the columns of `words` flush left, the rows of `bold` stressed."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold", caption_justify="left")
    used = [column for column in range(len(headings)) if any(row[column] for row in rows)]
    for column in used:
        table.add_column(headings[column], justify="left" if column in words else "right")
    for number, row in enumerate(rows):
        # Text, not a string: names from a checkpoint must not be read as rich's markup.
        cells = [Text(row[column], style=_STYLES.get(row[column], "")) for column in used]
        table.add_row(*cells, style="bold" if number in bold else None)
    return table
