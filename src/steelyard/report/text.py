"""The same figures for terminals: tables drawn by rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steelyard.report import numbers
from steelyard.report.data import KL, Damage, Metric, ReportData, Series, Sizes
from steelyard.report.summary import metric_text, ratio, summary

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

__all__ = [
    "byte_table",
    "certificate_table",
    "curve_table",
    "fit_table",
    "format_table",
    "metric_table",
    "summary",
]


def fit_table(data: ReportData) -> Group:
    """Return everything about one result: sentence, measurements, bytes, curve, formats and certificates."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(summary(data), style="bold")]
    if data.metrics:
        parts.append(metric_table(data.metrics))
    pairs = [pair for pair in data.all_predictions() if pair.label == "this result"]
    parts += [Text(f"  predicted {numbers.figure(pair.predicted)}, measured {ratio(pair)}") for pair in pairs]
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
    table = _table(title, ["metric"], ["base", "result", "95 % interval", "change, paired"])
    table.add_column("")
    styles = {"worse": "yellow", "better": "green"}
    for metric in metrics:
        row = metric_text(metric)
        table.add_row(*_plain(row.name, row.base, row.new, row.bounds, row.change), _styled(row.verdict, styles))
    return table


def curve_table(curves: Sequence[Series], damage: Damage = KL, parameters: int | None = None) -> Table:
    """Return the points of every curve: bytes, bits per parameter, measured and predicted damage, loss."""
    columns = ["bytes", "bits", f"{damage.name}, {damage.unit}", "95 % interval", "predicted", "loss"]
    table = _table("the curve", ["method"], columns)
    for series in curves:
        for point in series.points:
            bits = f"{8 * point.nbytes / parameters:.3f}" if parameters else ""
            loss = "" if point.loss is None else numbers.measured(point.loss)
            predicted = "" if point.predicted is None else numbers.figure(point.predicted)
            cells = _plain(
                series.name + (" *" if point.chosen else ""),
                numbers.exact(point.nbytes),
                bits,
                numbers.measured(point.damage),
                numbers.bounds(point.damage),
                predicted,
                loss,
            )
            table.add_row(*cells, style="bold" if point.chosen else None)
    if any(point.chosen for series in curves for point in series.points):
        table.caption = "* this result"
    return table


def byte_table(sizes: Sizes) -> Table:
    """Return where the bytes went, kind by kind."""
    table = _table("where the bytes went", ["kind"], ["original", "written", "of original", "of written"])
    for row in sizes.roles:
        table.add_row(*_plain(row.role, *_bytes(row.original, row.new, sizes.written)))
    table.add_section()
    table.add_row(*_plain("total", *_bytes(sizes.original, sizes.written, sizes.written)), style="bold")
    if sizes.budget is not None:
        step = "" if sizes.step is None else f"; the next improvement costs {sizes.step:,} bytes"
        table.caption = f"budget {sizes.budget:,} bytes, {sizes.budget - sizes.written:,} left{step}"
    return table


def format_table(data: ReportData) -> Table:
    """Return what each output format costs at the same budget."""
    table = _table(
        "formats at the same budget",
        ["format"],
        ["bytes", f"{data.damage.name}, {data.damage.unit}", "95 % interval"],
    )
    table.add_column("")
    for row in data.formats:
        bytes_, value, low_high = (
            numbers.exact(row.nbytes),
            numbers.measured(row.damage),
            numbers.bounds(row.damage),
        )
        table.add_row(*_plain(row.name, bytes_, value, low_high, row.detail))
    return table


def certificate_table(data: ReportData) -> Table:
    """Return what was checked, and how it came out."""
    table = _table("checked", ["certificate"], [])
    table.add_column("status")
    table.add_column("detail")
    styles = {"pass": "green", "fail": "bold red", "skipped": "dim"}
    for certificate in data.certificates:
        table.add_row(*_plain(certificate.name), _styled(certificate.status, styles), *_plain(certificate.detail))
    return table


def _bytes(original: int, new: int, written: int) -> tuple[str, str, str, str]:
    kept = f"{100 * new / original:.1f} %" if original > 0 else ""
    share = f"{100 * new / written:.1f} %" if written > 0 else ""
    return numbers.exact(original), numbers.exact(new), kept, share


def _table(title: str, names: Sequence[str], figures: Sequence[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold", caption_justify="left")
    for name in names:
        table.add_column(name)
    for name in figures:
        table.add_column(name, justify="right")
    return table


def _plain(*cells: str) -> list[RenderableType]:
    """Cells as they are: names from a checkpoint must not be read as rich's markup."""
    return [_styled(cell, {}) for cell in cells]


def _styled(cell: str, styles: dict[str, str]) -> RenderableType:
    from rich.text import Text

    return Text(cell, style=styles.get(cell, ""))
