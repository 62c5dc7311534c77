"""`steelyard forecast audit`: a run held against the frontier."""

from __future__ import annotations

import click

from steelyard.cli.forecast_options import Asked, pairs, run_options
from steelyard.errors import UserError


@click.command("audit")
@run_options
@click.option(
    "--at", required=True, metavar="N=175e9,D=300e9[,loss=1.9]", help="the run; its loss where it is known"
)
@click.option("--bootstraps", type=click.IntRange(20), default=200, help="resamples  [default: 200]")
def command(
    asked: Asked,
    at: str,
    bootstraps: int,
) -> None:
    """Say how far a run is from the best that its operations buy, by a law fitted to RUNS."""
    from dataclasses import asdict

    from steelyard.cli.console import show_json
    from steelyard.forecast.job import fit_runs, plain, predict
    from steelyard.forecast.planning import audit

    place = pairs(at, "--at")
    if not {"N", "D"} <= set(place):
        raise UserError("--at: audit needs N and D of the run")
    measured = place.pop("loss", None)
    report = fit_runs(asked.table(), asked.law, bootstraps=bootstraps, seed=asked.seed)
    others = {name: value for name, value in place.items() if name not in ("N", "D")}
    found = audit(report.fit, place["N"], place["D"], measured, others)
    forecast = predict(report, place)
    if asked.as_json:
        show_json({"law": report.fit.law.name, **plain(asdict(found)), "forecast": forecast.to_dict()})
        return
    click.echo(f"predicted loss {found.loss:.4f}; the best for as many operations {found.best:.4f}")
    click.echo(
        f"  that is N = {found.parameters:.4g} on D = {found.tokens:.4g}: {found.best_ratio:.1f} tokens a "
        f"parameter instead of {found.ratio:.1f}"
    )
    click.echo(
        f"  {100 * found.excess:.2f} % above the best; {100 * found.wasted:.0f} % of its operations buy nothing"
    )
    if measured is not None and found.surprise is not None:
        inside = (
            forecast.low is not None and forecast.high is not None and forecast.low <= measured <= forecast.high
        )
        verdict = "inside" if inside else "outside"
        click.echo(
            f"measured {measured:.4f}, {100 * found.surprise:+.2f} % from the prediction: {verdict} what such "
            "forecasts miss by"
        )
    for warning in forecast.warnings:
        click.echo(f"warning: {warning}")
    click.echo(f"law: {report.fit.law.name}, fitted to {len(report.fit.rows)} runs")
