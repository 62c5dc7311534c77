"""`steelyard forecast predict`: the loss of a run that was not done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from steelyard.cli.forecast_options import Asked, columns_of, fit_options, objective_options, pairs, run_options
from steelyard.errors import UserError

if TYPE_CHECKING:
    from steelyard.forecast.job import Forecast
    from steelyard.forecast.objective import Objective


@click.command("predict")
@run_options
@objective_options
@click.option(
    "--at", multiple=True, metavar="N=7e9,D=1.4T", help="the run; of N, D, C two suffice; repeat for more"
)
@fit_options(1000)
def command(
    asked: Asked,
    objective: Objective | None,
    at: tuple[str, ...],
    starts: int,
    bootstraps: int,
) -> None:
    """Fit a law to RUNS and predict others, with 90 % intervals and how far they lie beyond."""
    from steelyard.cli.console import show_json
    from steelyard.forecast.job import fit_runs, predict

    wanted = [pairs(words, "--at") for words in at]
    if not wanted:
        raise UserError("predict: say which run, as in --at N=7e9,D=1.4e11")
    report = fit_runs(
        asked.table(),
        asked.law,
        objective,
        starts=starts,
        bootstraps=bootstraps,
        seed=asked.seed,
    )
    forecasts = [predict(report, place) for place in wanted]
    if asked.as_json:
        show_json(
            {
                "law": report.fit.law.name,
                "constants": report.fit.constants,
                "forecasts": [forecast.to_dict() for forecast in forecasts],
                "notes": list(report.notes),
            }
        )
        return
    unit = report.table.unit(report.fit.law.target)
    for forecast in forecasts:
        _show(forecast, unit)
    click.echo(f"law: {report.fit.law.name}, {report.fit.law.formula}, fitted to {len(report.fit.rows)} runs")
    for note in report.notes:
        click.echo(f"note: {note}")


def _show(forecast: Forecast, unit: str) -> None:
    click.echo(f"{columns_of(forecast.at)}: {forecast.value:.4f} {unit}".rstrip())
    if forecast.low is not None and forecast.high is not None:
        click.echo(f"  90 % of such forecasts: {forecast.low:.4f} … {forecast.high:.4f}")
    click.echo(f"  90 % of resampled fits: {forecast.fit_low:.4f} … {forecast.fit_high:.4f}")
    beyond = {name: factor for name, factor in forecast.factors.items() if factor > 1}
    if beyond:
        words = ", ".join(f"{name} {factor:.3g} x" for name, factor in beyond.items())
        click.echo(f"  beyond the fitted runs: {words}")
    for warning in forecast.warnings:
        click.echo(f"  warning: {warning}")
