"""`steelyard align`: a model's units in the order of another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.cli.options import add_options, build, folder_options
from steelyard.edits.align.options import AlignOptions


@click.command("align")
@click.argument("model")
@click.option("--to", required=True, help="the model whose order counts")
@add_options(AlignOptions)
@folder_options
def command(model: str, to: str, out: Path, resume: bool, as_json: bool, **values: Any) -> None:
    """Put the units of MODEL into the order of another: the same function, proved in float64."""
    from steelyard.cli.console import progress, show_json
    from steelyard.edits.align.job import align_folder

    result = align_folder(model, to, out, build(AlignOptions, values), resume=resume, progress=progress())
    if as_json:
        show_json(result.to_dict())
        return
    click.echo(f"{result.out}: the units of {model} in the order of {to}")
    click.echo("moved: " + ", ".join(f"{kind} {count}" for kind, count in result.moved.items()))
    click.echo(f"distance of the weights: {result.before:.4f} before, {result.after:.4f} after")
    before, after = result.directions
    click.echo(
        f"agreement of dominant singular directions: {before.dominant:.4f} before, {after.dominant:.4f} after "
        f"({after.matrices} matrices)"
    )
    click.echo(f"same function: logits differ by {result.same:.1e} in float64 (relative, random tokens)")
    click.echo(f"next: steelyard barrier {to} {result.out}")
