"""`steelyard merge`: one model out of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.cli.options import add_options, build
from steelyard.edits.merge.options import MergeOptions
from steelyard.units import format_size


@click.command("merge")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("folder", required=False, metavar="[OUT]", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="the folder to make, instead of OUT")
@add_options(MergeOptions)
@click.option("--resume", is_flag=True, help="continue an interrupted run")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(
    recipe: Path, folder: Path | None, out: Path | None, resume: bool, as_json: bool, **values: Any
) -> None:
    """Merge models as RECIPE says, a YAML file in mergekit's dialect, and write OUT."""
    from steelyard.budget.merge import merge_file
    from steelyard.cli.console import progress, show_json

    if (folder is None) == (out is None):
        raise click.UsageError("give the folder to make once, as OUT or with --out")
    target = folder or out
    assert target is not None
    results = merge_file(recipe, target, build(MergeOptions, values), resume=resume, progress=progress())
    if as_json:
        show_json([result.to_dict() for result in results])
        return
    for result in results:
        for note in result.notes:
            click.echo(f"note: {note}")
        click.echo(
            f"{result.out}: {result.nbytes:,} bytes ({format_size(result.nbytes)}), {result.tensors} tensors, "
            f"{result.method} of {len(result.models)} models"
        )
