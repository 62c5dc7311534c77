"""`steelyard forecast compare`: which law to believe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from steelyard.cli.forecast_options import law_option, objective, objective_options, read, run_options

if TYPE_CHECKING:
    from steelyard.forecast.choosing import Comparison


@click.command("compare")
@run_options
@law_option("auto")
@objective_options
@click.option(
    "--holdout", type=float, default=0.25, help="share of runs, of most compute, held out  [default: 0.25]"
)
@click.option("--outer", type=float, default=0.0, help="share that no fit sees, for a last check  [default: 0]")
@click.option("--starts", type=click.IntRange(1), default=32, help="fits begun for each  [default: 32]")
def command(
    runs: str,
    mapping: str,
    where: tuple[str, ...],
    seed: int,
    as_json: bool,
    law: str,
    kind: str,
    delta: float,
    plain: bool,
    holdout: float,
    outer: float,
    starts: int,
) -> None:
    """Fit several laws to the smaller of RUNS and hold the larger ones against each.

    --law takes names joined by commas; auto is chinchilla and coupled.
    """
    from steelyard.cli.console import show_json
    from steelyard.forecast.choosing import compare
    from steelyard.forecast.job import comparison_data

    names = [] if law == "auto" else [name.strip() for name in law.split(",") if name.strip()]
    found = compare(
        read(runs, mapping, where),
        names,
        objective(kind, delta, plain),
        holdout=holdout,
        outer=outer,
        starts=starts,
        seed=seed,
    )
    if as_json:
        show_json(comparison_data(found))
        return
    show_comparison(found)
    for note in found.notes:
        click.echo(f"note: {note}")
    click.echo(f"next: steelyard forecast fit {runs} --law {found.best.law}")


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
