"""The page: its sections in the order a reader asks for them, its figures drawn for wide and for narrow screens."""

from __future__ import annotations

from importlib.resources import files
from string import Template

from steelyard.report import sections
from steelyard.report.data import ReportData
from steelyard.report.head import head, short_name
from steelyard.report.heatmap import heat_map
from steelyard.report.ledger import byte_bars
from steelyard.report.markup import chart, element, join
from steelyard.report.pareto import pareto
from steelyard.report.prediction import prediction_scatter
from steelyard.report.scene import Scene
from steelyard.report.svg import css_classes
from steelyard.report.tones import css_variables

FIGURES = ("pareto", "bits", "bytes", "prediction")
WIDE = 860.0
NARROW = 350.0
_SCATTER = 390.0


def page(data: ReportData) -> str:
    """Return the whole report as one HTML document that needs nothing else."""
    templates = files("steelyard.report") / "templates"
    style = Template((templates / "style.css").read_text(encoding="utf-8")).substitute(
        light=css_variables(dark=False), dark=css_variables(dark=True), classes=css_classes()
    )
    wide, narrow = drawings(data, WIDE), drawings(data, NARROW)
    charts = {name: chart(wide.get(name), narrow.get(name)) for name in FIGURES}
    body = join(
        head(data),
        sections.measurements(data),
        sections.curve(data, charts["pareto"]),
        sections.heat_map(charts["bits"]),
        sections.byte_account(data, charts["bytes"]),
        sections.predictions(data, charts["prediction"]),
        sections.formats(data),
        sections.certificates(data),
        sections.notes(data),
        sections.request(data),
        sections.tensors(data),
    )
    title = element("title", f"{short_name(data)}: {data.request.verb} report")
    return Template((templates / "page.html").read_text(encoding="utf-8")).substitute(
        title=title, style=style, body=body
    )


def drawings(data: ReportData, width: float = WIDE) -> dict[str, Scene]:
    """Return the report's figures by name, those there are data for."""
    narrow = width < 500
    found = {
        "pareto": pareto(
            data.curve,
            data.damage,
            parameters=data.sizes.parameters,
            budget=data.sizes.budget,
            width=width,
            height=360.0 if narrow else 440.0,
        ),
        "bits": heat_map(data.tensors, data.damage, width),
        "bytes": byte_bars(data.sizes, width),
        "prediction": prediction_scatter(data.all_predictions(), data.damage, min(width, _SCATTER)),
    }
    return {name: scene for name, scene in found.items() if scene is not None}
