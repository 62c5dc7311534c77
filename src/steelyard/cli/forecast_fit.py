"""`steelyard forecast fit`: a law for a table of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from steelyard.cli.forecast_options import (
    Asked,
    columns_of,
    fit_options,
    objective_options,
    pairs,
    run_options,
    short,
)

if TYPE_CHECKING:
    from steelyard.forecast.job import FitReport
    from steelyard.forecast.objective import Objective


@click.command("fit")
@run_options
@objective_options
@click.option("--holdout", type=float, default=0.25, help="for auto: share of runs held out  [default: 0.25]")
@fit_options(1000)
@click.option("--fix", default="", metavar="NAME=VALUE,…", help="hold these constants")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="write a page with figures")
@click.option("--png", type=click.Path(file_okay=False, path_type=Path), help="write the figures into this folder")
def command(
    asked: Asked,
    objective: Objective | None,
    holdout: float,
    starts: int,
    bootstraps: int,
    fix: str,
    html: Path | None,
    png: Path | None,
) -> None:
    """Fit a law to RUNS and say which of its constants the runs identify."""
    from steelyard.cli.console import progress, show_json
    from steelyard.forecast.job import fit_runs

    report = fit_runs(
        asked.table(),
        asked.law,
        objective,
        holdout=holdout,
        starts=starts,
        bootstraps=bootstraps,
        seed=asked.seed,
        fixed=pairs(fix, "--fix"),
        progress=progress(),
    )
    written = []
    if html is not None or png is not None:
        from steelyard.forecast.views import write_html, write_png

        written += [write_html(report, html)] if html is not None else []
        written += write_png(report, png) if png is not None else []
    if asked.as_json:
        show_json(report.to_dict())
        return
    _show(report, asked.runs)
    for path in written:
        click.echo(f"wrote {path}")


def _show(report: FitReport, runs: str) -> None:
    from rich.table import Table

    from steelyard.cli.console import show
    from steelyard.forecast.choosing import LEVEL

    found = report.fit
    if report.comparison is not None:
        from steelyard.cli.forecast_compare import show_comparison

        show_comparison(report.comparison)
    table = Table(title=f"{found.law.name}: {found.law.formula}", title_justify="left")
    for heading in ("constant", "value", "95 % interval", "verdict"):
        table.add_column(heading, justify="left" if heading in ("constant", "verdict") else "right")
    for verdict in report.verdicts:
        said = "identified" if verdict.identified else f"not identified from these runs (open {verdict.open})"
        table.add_row(verdict.name, short(verdict.value), f"{short(verdict.low)} … {short(verdict.high)}", said)
    for name, value in found.fixed.items():
        table.add_row(name, short(value), "", "held")
    show(table)
    click.echo(f"{len(found.rows)} runs; {found.objective.label}: {found.value:.7g}")
    click.echo(f"{found.agreeing} of {found.starts} starts agree; mean error {100 * found.error:.3g} %")
    for score in found.published:
        if 1 < score.ratio < 100:
            click.echo(f"{score.published.label}: {score.objective:.7g}, {score.ratio:.4g} times ours")
    for verdict in report.verdicts:
        if verdict.run is not None:
            click.echo(f"to settle {verdict.name}: run {columns_of(verdict.run)}")
    if report.reliability is not None:
        half = 100 * report.reliability.half_width()
        click.echo(
            f"forecasts of larger runs from smaller ones were within {half:.2g} % in {100 * LEVEL:.0f} % of cases, "
            f"up to {report.reliability.reach:.3g} times the compute"
        )
    for note in report.notes:
        click.echo(f"note: {note}")
    click.echo(f"next: steelyard forecast predict {runs} --law {found.law.name} --at N=…,D=…")
