"""`steelyard fuse`: one model of two that were trained apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.cli.options import add_options, build, folder_options
from steelyard.edits.align.options import FuseOptions
from steelyard.units import format_size


@click.command("fuse")
@click.argument("model", metavar="FIRST")
@click.argument("second")
@add_options(FuseOptions)
@folder_options
def command(model: str, second: str, out: Path, resume: bool, as_json: bool, **values: Any) -> None:
    """Make one model of FIRST and SECOND, matched unit by unit; the result has the order of FIRST."""
    from steelyard.cli.console import progress, show_json
    from steelyard.edits.align.fuse import fuse_folder

    result = fuse_folder(model, second, out, build(FuseOptions, values), resume=resume, progress=progress())
    if as_json:
        show_json(result.to_dict())
        return
    click.echo(
        f"{result.out}: {result.nbytes:,} bytes ({format_size(result.nbytes)}), {result.parameters:,} parameters, "
        f"feed-forwards of {result.ffn} channels, {result.joined} of them joined"
    )
    if result.residuals is not None:
        before, after = result.residuals
        click.echo(
            f"error of what linear maps put out, relative: {before:.4f} of permuted means, {after:.4f} as fitted"
        )
    click.echo(f"next: steelyard measure {result.out}")
