"""`steelyard fit`: the best model that fits a size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.budget.options import FitOptions
from steelyard.cli.options import add_options, build


@click.command("fit")
@click.argument("model")
@add_options(FitOptions)
@click.option("--out", type=click.Path(path_type=Path), help="the folder to make")
@click.option("--resume", is_flag=True, help="continue an interrupted run")
@click.option("--dry-run", is_flag=True, help="print a plan made from the weights alone; write nothing")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(model: str, out: Path | None, resume: bool, dry_run: bool, as_json: bool, **values: Any) -> None:
    """Return the best model that fits a budget of bytes on disk, in a folder that transformers loads.

    MODEL is a folder, an id in the local Hugging Face cache, an fsspec URL, or `reference`.
    """
    from steelyard.cli.console import progress
    from steelyard.cli.show import show_dry_run, show_fit

    options = build(FitOptions, values)
    if dry_run:
        from steelyard.budget.fit import dry_run as plan

        show_dry_run(plan(model, options, progress()), as_json)
        return
    if out is None:
        raise click.UsageError("--out is missing: the folder to make (or --dry-run to see the plan)")
    from steelyard.budget.fit import fit_folder

    show_fit(fit_folder(model, out, options, resume=resume, progress=progress()), as_json)
