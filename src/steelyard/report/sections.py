"""The sections of the page below the first screen. Each is empty when its data are."""

from __future__ import annotations

import json

from steelyard.report import numbers
from steelyard.report.data import ReportData
from steelyard.report.markup import NOTHING, Html, details, element, note, section, table, tag, terms
from steelyard.report.summary import metric_text, ratio, slack

_MOST_TENSORS = 1000
_BOOTSTRAP = "Intervals are bootstrapped over documents."
_PAIRED = (
    f"{_BOOTSTRAP} The change is paired: both models read the same documents, so its interval is narrower than "
    "those of the two values."
)


def measurements(data: ReportData) -> Html:
    """Return the table of measurements before and after."""
    if not data.metrics:
        return NOTHING
    rows = []
    for metric in data.metrics:
        row = metric_text(metric)
        rows.append([row.name, row.base, row.new, row.bounds, row.change, tag(row.verdict)])
    return section(
        "Before and after",
        table(["metric", "original", "result", "95 % interval", "change, paired", ""], rows, (0, 5)),
        note(_PAIRED if any(metric.change for metric in data.metrics) else _BOOTSTRAP),
    )


def curve(data: ReportData, drawing: Html) -> Html:
    """Return the Pareto curve, drawn and in numbers."""
    if not any(series.points for series in data.curve):
        return NOTHING
    rows: list[list[str]] = []
    strong: list[int] = []
    for series in data.curve:
        for point in series.points:
            if point.chosen:
                strong.append(len(rows))
            bits = data.sizes.bits(point.nbytes)
            rows.append(
                [
                    series.name,
                    numbers.exact(point.nbytes),
                    "" if bits is None else f"{bits:.3f}",
                    numbers.measured(point.damage),
                    numbers.bounds(point.damage),
                    "" if point.predicted is None else numbers.figure(point.predicted, 3),
                    "" if point.loss is None else numbers.measured(point.loss),
                ]
            )
    heading = data.damage.label
    columns = ["method", "bytes", "bits per parameter", heading, "95 % interval", "predicted", "loss"]
    numbers_table = table(columns, rows, strong=strong)
    return section(
        "What other budgets would give",
        drawing,
        details("The curve in numbers", numbers_table) if drawing else numbers_table,
        note(
            f"Every point is a model on disk, measured. {data.damage.name} is on a logarithmic scale; "
            "lower is better. Shaded strokes are 95 % intervals."
        ),
    )


def heat_map(drawing: Html) -> Html:
    """Return the heat map of bits."""
    if not drawing:
        return NOTHING
    return section(
        "Bits by layer and role",
        drawing,
        note("Bits per weight, scales included. Pointing at a cell shows how it is stored and what that costs."),
    )


def byte_account(data: ReportData, drawing: Html) -> Html:
    """Return where the bytes went, drawn and in numbers, and what of the budget was left."""
    sizes = data.sizes
    if not sizes.roles and sizes.budget is None:
        return NOTHING
    rows = [(row.role, row.original, row.new) for row in sizes.roles] + [("total", sizes.original, sizes.written)]
    cells = [
        [name, numbers.exact(before), numbers.exact(after), _percent(after, before), _percent(after, sizes.written)]
        for name, before, after in rows
    ]
    columns = ["kind", "original", "written", "of original", "of written"]
    in_numbers = table(columns, cells, strong=[len(cells) - 1])
    left = slack(data)
    account = [
        ("budget", "" if sizes.budget is None else f"{sizes.budget:,} bytes"),
        ("planned", "" if sizes.planned is None else f"{sizes.planned:,} bytes"),
        ("written", f"{sizes.written:,} bytes" + (f", {left}" if left else "")),
        ("next improvement", _step(data)),
    ]
    return section(
        "Where the bytes went",
        drawing,
        details("The bytes in numbers", in_numbers) if drawing else NOTHING,
        terms(account),
    )


def _step(data: ReportData) -> str:
    step, left = data.sizes.step, data.sizes.slack
    if step is None:
        return ""
    return f"{step:,} bytes" + (", more than was left" if left is not None and left < step else "")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole > 0 else ""


def predictions(data: ReportData, drawing: Html) -> Html:
    """Return predicted beside measured damage."""
    pairs = data.all_predictions()
    if not pairs:
        return NOTHING
    rows = [
        [
            pair.label,
            numbers.figure(pair.predicted, 3),
            numbers.measured(pair.measured),
            ratio(pair),
        ]
        for pair in pairs
    ]
    columns = ["result", "predicted", "measured", "ratio"]
    return section(
        "Predicted and measured damage",
        element("div", drawing, table(columns, rows), css="beside"),
        note("On the dashed line the prediction is exact; above it the model suffered more than was predicted."),
    )


def formats(data: ReportData) -> Html:
    """Return what each output format costs."""
    if not data.formats:
        return NOTHING
    rows = [
        [
            row.name,
            numbers.exact(row.nbytes),
            numbers.measured(row.damage),
            numbers.bounds(row.damage),
            row.detail,
        ]
        for row in data.formats
    ]
    columns = ["format", "bytes", data.damage.label, "95 % interval", ""]
    return section("What the format costs", table(columns, rows, (0, 4)))


def certificates(data: ReportData) -> Html:
    """Return what was checked."""
    if not data.certificates:
        return NOTHING
    rows = [[item.name, tag(item.status), item.detail] for item in data.certificates]
    return section("Checked before the folder took its name", table(["check", "", "detail"], rows, (0, 1, 2)))


def notes(data: ReportData) -> Html:
    """Return the notes."""
    if not data.notes:
        return NOTHING
    return section("Notes", element("ul", *(element("li", words) for words in data.notes)))


def request(data: ReportData) -> Html:
    """Return what it takes to do it again."""
    request = data.request
    main = terms(
        [
            ("model", request.model),
            ("asked", request.asked),
            ("calibrated on", request.calibration),
            ("evaluated on", request.evaluation),
            ("wall time", "" if request.seconds is None else numbers.duration(request.seconds)),
            ("peak memory", "" if request.peak_memory is None else numbers.size(request.peak_memory)),
            ("seed", "" if request.seed is None else str(request.seed)),
            ("versions", ", ".join(f"{name} {version}" for name, version in request.versions.items())),
        ]
    )
    options = terms([(name, json.dumps(value, ensure_ascii=False)) for name, value in request.options.items()])
    command = element("pre", element("code", request.command)) if request.command else NOTHING
    return section("How it was made", command, main, details("Options", options) if options else NOTHING)


def tensors(data: ReportData) -> Html:
    """Return how every tensor is stored."""
    if not data.tensors:
        return NOTHING
    shown = sorted(data.tensors, key=lambda row: -(row.damage or 0.0))[:_MOST_TENSORS]
    rows = [
        [
            element("code", row.name),
            row.label,
            f"{row.bits:.3f}",
            numbers.exact(row.nbytes),
            "" if row.damage is None else numbers.figure(row.damage, 3),
            "" if row.error is None else numbers.figure(row.error, 3),
        ]
        for row in shown
    ]
    columns = [
        "tensor",
        "stored as",
        "bits per weight",
        "bytes",
        f"predicted {data.damage.name}",
        "relative error",
    ]
    rest = len(data.tensors) - len(rows)
    tail = note(f"{rest:,} more, of less predicted damage, are in steelyard.json.") if rest else NOTHING
    return section(
        "Every tensor",
        details(f"{len(data.tensors):,} tensors, most damage first", table(columns, rows, (0, 1)), tail),
    )
