"""The page: sections of a report, in the order a reader asks for them."""

from __future__ import annotations

import json
from importlib.resources import files
from string import Template

from steelyard.report import numbers
from steelyard.report.data import ReportData
from steelyard.report.heatmap import heat_map
from steelyard.report.ledger import byte_bars
from steelyard.report.markup import (
    NOTHING,
    Html,
    chart,
    details,
    element,
    join,
    note,
    section,
    table,
    tag,
    terms,
)
from steelyard.report.pareto import pareto
from steelyard.report.prediction import prediction_scatter
from steelyard.report.scene import Scene
from steelyard.report.summary import metric_text, ratio, slack, summary
from steelyard.report.svg import css_classes
from steelyard.report.tones import css_variables

WIDE = 860.0
NARROW = 350.0
_MOST_TENSORS = 1000


def page(data: ReportData) -> str:
    """Return the whole report as one HTML document that needs nothing else."""
    templates = files("steelyard.report") / "templates"
    style = Template((templates / "style.css").read_text(encoding="utf-8")).substitute(
        light=css_variables(dark=False), dark=css_variables(dark=True), classes=css_classes()
    )
    body = join(
        _head(data),
        _measurements(data),
        _curve(data),
        _heat_map(data),
        _bytes(data),
        _predictions(data),
        _formats(data),
        _certificates(data),
        _notes(data),
        _request(data),
        _tensors(data),
    )
    return Template((templates / "page.html").read_text(encoding="utf-8")).substitute(
        title=element("title", f"{_name(data)}: {data.request.verb} report"), style=style, body=body
    )


def drawings(data: ReportData, width: float = WIDE) -> dict[str, Scene]:
    """Return the report's figures by name, those there are data for."""
    scatter = width if width < 500 else 420.0
    found = {
        "pareto": pareto(
            data.curve,
            data.damage,
            parameters=data.sizes.parameters,
            budget=data.sizes.budget,
            width=width,
            height=360.0 if width < 500 else 440.0,
        ),
        "bits": heat_map(data.tensors, data.damage, width),
        "bytes": byte_bars(data.sizes, width),
        "prediction": prediction_scatter(data.all_predictions(), data.damage, scatter),
    }
    return {name: scene for name, scene in found.items() if scene is not None}


def _chart(data: ReportData, name: str) -> Html:
    return chart(drawings(data, WIDE).get(name), drawings(data, NARROW).get(name))


def _name(data: ReportData) -> str:
    return data.request.model.rstrip("/").rsplit("/", 1)[-1] or data.request.model


def _head(data: ReportData) -> Html:
    sizes = data.sizes
    tiles = [_tile("on disk", numbers.size(sizes.written), _share(data))]
    bits = sizes.bits(sizes.written)
    if bits is not None:
        tiles.append(_tile("bits per parameter", f"{bits:.2f}", "of everything stored"))
    headline = data.metric(data.damage.name)
    if headline is not None:
        below = f"{numbers.bounds(headline.new)} {data.damage.unit}".strip()
        if data.predicted is not None:
            below += f", predicted {numbers.figure(data.predicted)}"
        tiles.append(_tile(f"{data.damage.name} to the original", numbers.measured(headline.new), below))
    loss = data.metric("loss")
    if loss is not None:
        row = metric_text(loss)
        tiles.append(_tile("loss", row.new, f"from {row.base}, {row.change}" if row.base else row.bounds))
    failed = [certificate.name for certificate in data.certificates if certificate.status == "fail"]
    warning = element("p", f"Not passed: {', '.join(failed)}", css="warning") if failed else NOTHING
    return element(
        "header",
        element("p", f"Steelyard · {data.request.verb}", css="mark"),
        element("h1", _name(data)),
        element("p", summary(data), css="summary"),
        warning,
        element("div", *tiles, css="tiles"),
    )


def _tile(name: str, value: str, below: str) -> Html:
    return element(
        "div",
        element("span", name, css="name"),
        element("span", value, css="value"),
        element("span", below, css="below"),
        css="tile",
    )


def _share(data: ReportData) -> str:
    sizes = data.sizes
    share = f" ({100 * sizes.written / sizes.original:.1f} %)" if sizes.original else ""
    return f"of {numbers.size(sizes.original)}{share}"


def _measurements(data: ReportData) -> Html:
    if not data.metrics:
        return NOTHING
    rows = []
    for metric in data.metrics:
        row = metric_text(metric)
        rows.append([row.name, row.base, row.new, row.bounds, row.change, tag(row.verdict)])
    return section(
        "Before and after",
        table(["metric", "original", "result", "95 % interval", "change, paired", ""], rows, (0, 5)),
        note(
            "Intervals are bootstrapped over documents. The change is paired: both models read the same documents, "
            "so its interval is narrower than those of the two values."
        ),
    )


def _curve(data: ReportData) -> Html:
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
                    "" if point.predicted is None else numbers.figure(point.predicted),
                    "" if point.loss is None else numbers.measured(point.loss),
                ]
            )
    heading = f"{data.damage.name}, {data.damage.unit}"
    columns = ["method", "bytes", "bits per parameter", heading, "95 % interval", "predicted", "loss"]
    numbers_table = table(columns, rows, strong=strong)
    drawing = _chart(data, "pareto")
    return section(
        "What other budgets would give",
        drawing,
        details("The curve in numbers", numbers_table) if drawing else numbers_table,
        note(
            f"Every point is a model on disk, measured. {data.damage.name} is on a logarithmic scale; "
            "lower is better. Shaded strokes are 95 % intervals."
        ),
    )


def _heat_map(data: ReportData) -> Html:
    return section("Bits by layer and role", _chart(data, "bits"))


def _bytes(data: ReportData) -> Html:
    sizes = data.sizes
    rows = [
        [
            row.role,
            numbers.exact(row.original),
            numbers.exact(row.new),
            _percent(row.new, row.original),
            _percent(row.new, sizes.written),
        ]
        for row in sizes.roles
    ]
    rows.append(
        [
            "total",
            numbers.exact(sizes.original),
            numbers.exact(sizes.written),
            _percent(sizes.written, sizes.original),
            "",
        ]
    )
    columns = ["kind", "original", "written", "of original", "of written"]
    parts = terms(
        [
            ("budget", "" if sizes.budget is None else f"{sizes.budget:,} bytes"),
            ("planned", "" if sizes.planned is None else f"{sizes.planned:,} bytes"),
            (
                "written",
                f"{sizes.written:,} bytes" + (f", {slack(data)}" if sizes.budget is not None else ""),
            ),
            (
                "next improvement",
                "" if sizes.step is None else f"{sizes.step:,} bytes, which is more than was left",
            ),
        ]
    )
    return section(
        "Where the bytes went",
        _chart(data, "bytes"),
        details("The bytes in numbers", table(columns, rows, strong=[len(rows) - 1])),
        parts,
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole > 0 else ""


def _predictions(data: ReportData) -> Html:
    pairs = data.all_predictions()
    if not pairs:
        return NOTHING
    rows = [
        [
            pair.label,
            numbers.figure(pair.predicted),
            numbers.measured(pair.measured),
            numbers.bounds(pair.measured),
            ratio(pair),
        ]
        for pair in pairs
    ]
    columns = ["result", "predicted", "measured", "95 % interval", "ratio"]
    return section(
        "Predicted and measured damage",
        element("div", _chart(data, "prediction"), table(columns, rows), css="beside"),
        note("On the dashed line the prediction is exact; above it the model suffered more than was predicted."),
    )


def _formats(data: ReportData) -> Html:
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
    columns = ["format", "bytes", f"{data.damage.name}, {data.damage.unit}", "95 % interval", ""]
    return section("What the format costs", table(columns, rows, (0, 4)))


def _certificates(data: ReportData) -> Html:
    if not data.certificates:
        return NOTHING
    rows = [[item.name, tag(item.status), item.detail] for item in data.certificates]
    return section("Checked before the folder took its name", table(["check", "", "detail"], rows, (0, 1, 2)))


def _notes(data: ReportData) -> Html:
    if not data.notes:
        return NOTHING
    return section("Notes", element("ul", *(element("li", words) for words in data.notes)))


def _request(data: ReportData) -> Html:
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


def _tensors(data: ReportData) -> Html:
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
