"""`steelyard forecast compare`: which law to believe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from steelyard.cli.forecast_options import Asked, objective_options, run_options

if TYPE_CHECKING:
    from steelyard.forecast.choosing import Comparison
    from steelyard.forecast.objective import Objective
    from steelyard.forecast.runs import RunTable


@click.command("compare")
@run_options
@objective_options
@click.option(
    "--holdout", type=float, default=0.25, help="share of runs, of most compute, held out  [default: 0.25]"
)
@click.option("--outer", type=float, default=0.0, help="share that no fit sees, for a last check  [default: 0]")
@click.option("--approaches", "three", is_flag=True, help="N* ~ C^a by envelope, IsoFLOP minima and surface")
@click.option("--starts", type=click.IntRange(1), default=32, help="fits begun for each  [default: 32]")
def command(
    asked: Asked,
    objective: Objective | None,
    holdout: float,
    outer: float,
    three: bool,
    starts: int,
) -> None:
    """Fit several laws to the smaller of RUNS and hold the larger ones against each.

    --law takes names joined by commas; auto is chinchilla and coupled.
    """
    from steelyard.cli.console import show_json
    from steelyard.forecast.choosing import compare
    from steelyard.forecast.job import comparison_data

    names = [] if asked.law == "auto" else [name.strip() for name in asked.law.split(",") if name.strip()]
    table = asked.table()
    if three:
        _approaches(table, asked)
        return
    found = compare(
        table,
        names,
        objective,
        holdout=holdout,
        outer=outer,
        starts=starts,
        seed=asked.seed,
    )
    if asked.as_json:
        show_json(comparison_data(found))
        return
    show_comparison(found)
    for note in found.notes:
        click.echo(f"note: {note}")
    click.echo(f"next: steelyard forecast fit {asked.runs} --law {found.best.law}")


def _approaches(runs: RunTable, asked: Asked) -> None:
    from dataclasses import asdict

    from rich.table import Table

    from steelyard.cli.console import show, show_json
    from steelyard.forecast.approaches import approaches
    from steelyard.forecast.job import plain

    found = approaches(runs, asked.law, seed=asked.seed)
    if asked.as_json:
        show_json([plain(asdict(answer)) for answer in found])
        return
    table = Table(title=f"{len(runs)} runs; compute-optimal N* = k C^a", title_justify="left")
    for heading in ("approach", "a", "95 % interval", "N* at the largest C", "minima"):
        table.add_column(heading, justify="left" if heading == "approach" else "right")
    largest = float(runs.compute().max())
    for answer in found:
        name = f"{answer.approach}: {answer.name}"
        if answer.refusal:
            table.add_row(name, "refused")
            continue
        minima = f"{answer.used} of {len(answer.minima)}" if answer.minima else ""
        table.add_row(
            name,
            f"{answer.exponent:.4f}",
            f"{answer.low:.3f} … {answer.high:.3f}",
            f"{answer.coefficient * largest**answer.exponent:.4g}",
            minima,
        )
    show(table)
    for answer in found:
        if answer.refusal:
            click.echo(f"approach {answer.approach} refused: {answer.refusal}")
        refused: dict[str, int] = {}
        for minimum in answer.minima:
            if minimum.refusal:
                refused[minimum.refusal] = refused.get(minimum.refusal, 0) + 1
        for reason, count in refused.items():
            click.echo(f"approach {answer.approach}: {count} budgets left out: {reason}")


def show_comparison(found: Comparison) -> None:
    """Print laws side by side, the best on held-out compute first."""
    from rich.table import Table

    from steelyard.cli.console import show

    table = Table(title=f"{found.rows} runs; mean relative error in %", title_justify="left")
    outer = any(score.outer is not None for score in found.scores)
    headings = ["law", "fitted to all", f"largest {100 * found.holdout:.0f} % held out", *(["kept apart"] * outer)]
    for heading in [*headings, "compute beyond"]:
        table.add_column(heading, justify="left" if heading == "law" else "right")
    for score in found.scores:
        if score.fit is None:
            continue
        last = [f"{100 * score.outer:.3f}"] if score.outer is not None else []
        table.add_row(
            score.law, f"{100 * score.in_sample:.3f}", f"{100 * score.inner:.3f}", *last, f"{score.reach:.3g} x"
        )
    show(table)
    for score in found.scores:
        if score.problem:
            click.echo(f"{score.law}: {score.problem}")
    if found.tempting.law != found.best.law:
        click.echo(
            f"{found.tempting.law} fits all runs best, and {found.best.law} forecasts the larger ones best: "
            "believe the second"
        )
