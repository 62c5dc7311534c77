"""The first screen of the page."""

from __future__ import annotations

from steelyard.report import numbers
from steelyard.report.data import ReportData
from steelyard.report.markup import NOTHING, Html, element
from steelyard.report.summary import metric_text, slack, summary


def short_name(data: ReportData) -> str:
    """Return the last part of the model's name."""
    return data.request.model.rstrip("/").rsplit("/", 1)[-1] or data.request.model


def head(data: ReportData) -> Html:
    """Return the first screen: the result in one sentence and in a few large figures."""
    failed = [certificate.name for certificate in data.certificates if certificate.status == "fail"]
    warning = element("p", f"Not passed: {', '.join(failed)}", css="warning") if failed else NOTHING
    return element(
        "header",
        element("p", f"Steelyard {data.request.verb} report", css="mark"),
        element("h1", short_name(data)),
        element("p", summary(data), css="summary"),
        warning,
        element("div", *_tiles(data), css="tiles"),
    )


def _tiles(data: ReportData) -> list[Html]:
    sizes = data.sizes
    tiles = [_tile("on disk", numbers.size(sizes.written), _share(data), slack(data))]
    bits = sizes.bits(sizes.written)
    if bits is not None:
        tiles.append(_tile("bits per parameter", f"{bits:.2f}", "of everything stored"))
    headline = data.metric(data.damage.name)
    if headline is not None:
        predicted = "" if data.predicted is None else f"predicted {numbers.figure(data.predicted, 3)}"
        value, low_high = numbers.measured(headline.new, headline.unit), numbers.bounds(headline.new, headline.unit)
        tiles.append(_tile(data.damage.label, value, low_high, predicted))
    loss = data.metric("loss")
    if loss is not None:
        row = metric_text(loss)
        tiles.append(_tile("loss", row.new, f"from {row.base}" if row.base else row.bounds, row.change))
    return tiles


def _tile(name: str, value: str, *below: str) -> Html:
    lines = [element("span", line, css="below") for line in below if line]
    return element(
        "div", element("span", name, css="name"), element("span", value, css="value"), *lines, css="tile"
    )


def _share(data: ReportData) -> str:
    sizes = data.sizes
    share = f" ({100 * sizes.written / sizes.original:.1f} %)" if sizes.original else ""
    return f"of {numbers.size(sizes.original)}{share}"
