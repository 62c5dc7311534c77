"""`steelyard stitch`: two models and many between them, in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steelyard.cli.options import add_options, build, plannable_options
from steelyard.edits.stitch.options import StitchOptions

if TYPE_CHECKING:
    from steelyard.edits.stitch.stitch import StitchResult


@click.command("stitch")
@click.argument("model", metavar="FIRST")
@click.argument("second", metavar="SECOND")
@add_options(StitchOptions)
@plannable_options
def command(
    model: str, second: str, out: Path | None, resume: bool, dry_run: bool, as_json: bool, **values: Any
) -> None:
    """Join FIRST and SECOND by maps between their blocks: enter the one, leave the other, switch at run time."""
    from steelyard.budget.compose import plan_stitching, stitch_models
    from steelyard.cli.console import progress, show_json
    from steelyard.cli.show import show_dry_run

    options = build(StitchOptions, values)
    if dry_run:
        show_dry_run(plan_stitching(model, second, options), as_json)
        return
    if out is None:
        raise click.UsageError("--out is missing: the folder to make (or --dry-run to see the plan)")
    result = stitch_models(model, second, out, options, resume=resume, progress=progress())
    if as_json:
        show_json(result.to_dict())
    else:
        _show(result, model, second)


def _show(result: StitchResult, first: str, second: str) -> None:
    from rich.table import Table

    from steelyard.cli.console import show
    from steelyard.cli.show import size_of

    names = {"first": f"{first} alone", "second": f"{second} alone"}
    table = Table("way", "operations a token", "loss", "missed", title=f"{first} into {second}")
    for way in result.ways:
        missed = result.missed.get(way.name)
        table.add_row(
            names.get(way.name, way.name) + (" *" if way.name == result.way else ""),
            f"{way.flops:,}",
            "" if way.loss is None else f"{way.loss:.4f}",
            "" if missed is None else f"{missed:.1%}",
        )
    show(table)
    click.echo(f"* is run unless another way is asked for; operations of a prompt of {result.tokens} tokens")
    click.echo(f"measured on {result.data}")
    click.echo(f"{size_of(result)}; next: steelyard measure {result.out}")
