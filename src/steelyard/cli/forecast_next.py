"""`steelyard forecast next`: which runs to do next."""

from __future__ import annotations

import math

import click

from steelyard.cli.forecast_options import Asked, columns_of, pairs, run_options
from steelyard.errors import UserError


@click.command("next")
@run_options
@click.option("--flops", type=float, required=True, help="operations that may be spent on further runs")
@click.option(
    "--for", "target", required=True, metavar="N=70e9,D=1.4T", help="the run whose loss is to be forecast"
)
@click.option("--beyond", type=float, default=2.0, help="factor beyond the runs done  [default: 2]")
@click.option("--most", type=click.IntRange(1), default=8, help="runs at most  [default: 8]")
def command(
    asked: Asked,
    flops: float,
    target: str,
    beyond: float,
    most: int,
) -> None:
    """Choose runs that make one forecast surest for the operations they take."""
    from steelyard.cli.console import show_json
    from steelyard.forecast import laws
    from steelyard.forecast.choosing import compare
    from steelyard.forecast.experiments import candidates, propose
    from steelyard.forecast.fitting import fit
    from steelyard.forecast.job import complete

    table = asked.table()
    law = compare(table, seed=asked.seed).best.law if asked.law == "auto" else asked.law
    found = fit(table.rows(laws.get(law)), seed=asked.seed)
    if not {"N", "D"} <= set(found.law.columns):
        raise UserError(f"next: the operations of runs follow from N and D, which law {law} does not have")
    pool = candidates(found, beyond)
    design = propose(
        found, pool, 6 * pool["N"] * pool["D"], flops, complete(pairs(target, "--for"), found), most=most
    )
    if asked.as_json:
        show_json(
            {
                "law": law,
                "before": design.before,
                "runs": [{"at": dict(p.at), "flops": p.cost, "error": p.error} for p in design.proposals],
            }
        )
        return
    click.echo(
        f"law {law}; the forecast is now sure to {100 * math.expm1(design.before):.2f} % (one standard error)"
    )
    for proposal in design.proposals:
        click.echo(
            f"run {columns_of(proposal.at)}: {proposal.cost:.3g} operations; "
            f"then {100 * math.expm1(proposal.error):.2f} %"
        )
    click.echo(f"together {sum(p.cost for p in design.proposals):.3g} of {flops:.3g} operations")
    click.echo("note: this counts the noise of the runs, not whether the law holds beyond them; hold some out")
