"""`steelyard quantize`: one codec for every matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.budget.quantize import QuantizeOptions
from steelyard.cli.options import add_options, build
from steelyard.units import format_size


@click.command("quantize")
@click.argument("model")
@add_options(QuantizeOptions)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="the folder to make")
@click.option("--resume", is_flag=True, help="continue an interrupted run")
@click.option("--dry-run", is_flag=True, help="print the size; write nothing")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(model: str, out: Path, resume: bool, dry_run: bool, as_json: bool, **values: Any) -> None:
    """Encode every matrix of MODEL with one codec, tensor by tensor, in little memory."""
    from steelyard.budget.quantize import dry_run as plan
    from steelyard.budget.quantize import quantize_folder
    from steelyard.cli.console import progress, show_json
    from steelyard.cli.show import show_dry_run

    options = build(QuantizeOptions, values)
    if dry_run:
        show_dry_run(plan(model, options), as_json)
        return
    result = quantize_folder(model, out, options, resume=resume, progress=progress())
    if as_json:
        show_json(result.to_dict())
        return
    click.echo(
        f"{result.out}: {result.nbytes:,} bytes ({format_size(result.nbytes)}), "
        f"{result.nbytes / result.source_bytes:.3f} of {format_size(result.source_bytes)}; "
        f"{result.encoded} tensors encoded and verified"
    )
    if result.calibrated_on:
        click.echo(f"calibrated on {result.calibrated_on}")
    if result.kept:
        click.echo(f"left as they were: {', '.join(result.kept)}")
    click.echo(f"next: steelyard measure {result.out} --against {model}")
