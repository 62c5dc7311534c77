"""A fit as a page and as pictures: losses with the frontier and its band, residuals by compute, profiles."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from steelyard.forecast.axes import Layer, plot
from steelyard.forecast.frontier import frontier
from steelyard.forecast.job import FitReport
from steelyard.report.image import save_png
from steelyard.report.markup import Html, chart, element, join, note, section, table
from steelyard.report.numbers import figure
from steelyard.report.scene import Scene
from steelyard.report.svg import css_classes
from steelyard.report.tones import css_variables

WIDE, NARROW = 860.0, 350.0
_DRAWN = 100
"""Resampled fits that a band is drawn from."""


def scenes(report: FitReport, width: float = WIDE) -> dict[str, Scene]:
    """Return the figures of a fit by name."""
    found = {"loss": _losses(report, width), "residuals": _residuals(report, width)}
    for name, profile in report.profiles.items():
        best = report.fit.value
        shown = np.isfinite(profile.values) & (profile.costs - best <= 5 * (profile.limit - best))
        if shown.sum() > 2:
            values = profile.values[shown]
            ends = np.array([values[0], values[-1]])
            limit = np.full(2, 100 * (profile.limit / best - 1))
            found[f"profile-{name}"] = plot(
                [
                    Layer(ends, limit, "muted", "limit of the 95 % interval", line=True, dash=(5.0, 4.0)),
                    Layer(values, 100 * (profile.costs[shown] / best - 1), "accent", line=True),
                ],
                f"Profile of {name}: how much worse the best fit is with it held",
                f"{'logarithm of the term of ' if report.fit.law.positive(name) else ''}{name}",
                "objective, % above the best",
                width,
                240.0,
                log_x=False,
            )
    return found


def write_html(report: FitReport, path: Path) -> Path:
    """Write a page that needs nothing else."""
    templates = files("steelyard.report") / "templates"
    style = Template((templates / "style.css").read_text(encoding="utf-8")).substitute(
        light=css_variables(dark=False), dark=css_variables(dark=True), classes=css_classes()
    )
    wide, narrow = scenes(report, WIDE), scenes(report, NARROW)
    charts = {name: chart(scene, narrow.get(name)) for name, scene in wide.items()}
    law = report.fit.law
    body = join(
        element("h1", f"{law.name} fitted to {report.table.source}"),
        note(f"{law.target} = {law.formula}. {law.paper}."),
        section("Constants", _constants(report)),
        section("Losses", charts["loss"]),
        section("Residuals", charts["residuals"]),
        section("Profiles", *(html for name, html in charts.items() if name.startswith("profile-"))),
        section("Notes", *(note(words) for words in report.notes)),
    )
    title = element("title", f"{law.name}: forecast")
    page = Template((templates / "page.html").read_text(encoding="utf-8"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.substitute(title=title, style=style, body=body), encoding="utf-8")
    return path


def write_png(report: FitReport, folder: Path) -> list[Path]:
    """Write every figure into a folder."""
    return [save_png(scene, folder / f"{name}.png") for name, scene in scenes(report).items()]


def _constants(report: FitReport) -> Html:
    rows = [
        [
            verdict.name,
            figure(verdict.value, 5),
            f"{figure(verdict.low)} … {figure(verdict.high)}",
            "identified" if verdict.identified else f"not identified from these runs (open {verdict.open})",
        ]
        for verdict in report.verdicts
    ]
    return table(["constant", "value", "95 % interval", "verdict"], rows, words=(0, 3))


def _losses(report: FitReport, width: float) -> Scene:
    compute, measured = report.table.compute(), report.fit.rows.measured
    layers = [Layer(compute, measured, "series-6", "runs")]
    if set(report.fit.law.columns) == {"N", "D"}:
        budgets = np.geomspace(compute.min(), 10 * compute.max(), 60)
        best = frontier(report.fit, budgets)
        drawn = frontier(report.fit, budgets, report.bootstrap.coordinates[:_DRAWN])
        low, high = np.nanpercentile(drawn.loss, (5, 95), axis=0)
        layers.append(Layer(budgets, low, "accent", upper=high))
        layers.append(
            Layer(budgets, best.loss, "accent", "best for the compute, with 90 % of resampled fits", line=True)
        )
    label = f"{report.fit.law.target.capitalize()} against compute"
    return plot(layers, label, "training operations", report.fit.law.target, width)


def _residuals(report: FitReport, width: float) -> Scene:
    compute, off = report.table.compute(), 100 * report.fit.residuals
    ends = np.array([compute.min(), compute.max()])
    layers = [Layer(ends, np.zeros(2), "muted", line=True), Layer(compute, off, "accent")]
    return plot(
        layers, "Residuals against compute", "training operations", "predicted less measured, %", width, 300.0
    )
