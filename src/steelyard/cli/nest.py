"""`steelyard nest`: one file that holds every size of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.budget.nest import NestOptions
from steelyard.cli.options import add_options, build
from steelyard.units import format_size


@click.command("nest")
@click.argument("model")
@add_options(NestOptions)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="the folder to make")
@click.option("--dry-run", is_flag=True, help="print the sizes; write nothing")
@click.option("--resume", is_flag=True, help="continue an interrupted run")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(model: str, out: Path, dry_run: bool, resume: bool, as_json: bool, **values: Any) -> None:
    """Write MODEL as nested tensors: one file to load at any size, to grow and to shed at run time."""
    from steelyard.budget.nest import dry_run as plan
    from steelyard.budget.nest import nest_folder
    from steelyard.cli.console import progress, show_json
    from steelyard.cli.show import show_dry_run

    options = build(NestOptions, values)
    if dry_run:
        show_dry_run(plan(model, options), as_json)
        return
    result = nest_folder(model, out, options, resume=resume, progress=progress())
    if as_json:
        show_json(result.to_dict())
        return
    click.echo(
        f"{result.out}: {result.nbytes:,} bytes ({format_size(result.nbytes)}) from "
        f"{format_size(result.source_bytes)}; loads at {result.sizes} sizes from {format_size(result.smallest)} to "
        f"{format_size(result.largest)}"
    )
    if result.calibrated_on:
        click.echo(f"calibrated on {result.calibrated_on}")
    if result.kept:
        click.echo(f"left as they were: {', '.join(result.kept)}")
    click.echo(f"next: steelyard shed {result.out} --size … --out …, or steelyard.load(…, budget_bytes=…)")
