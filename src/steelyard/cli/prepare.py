"""`steelyard prepare`: the same function in weights that are easier to round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.budget.prepare import PrepareOptions
from steelyard.cli.options import add_options, build
from steelyard.units import format_size


@click.command("prepare")
@click.argument("model")
@add_options(PrepareOptions)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="the folder to make")
@click.option("--resume", is_flag=True, help="continue an interrupted run")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(model: str, out: Path, resume: bool, as_json: bool, **values: Any) -> None:
    """Rotate, smooth or equalize MODEL: the same function, proved in float64, that loses less when rounded."""
    from steelyard.budget.prepare import prepare_folder
    from steelyard.cli.console import progress, show_json

    result = prepare_folder(model, out, build(PrepareOptions, values), resume=resume, progress=progress())
    if as_json:
        show_json(result.to_dict())
        return
    click.echo(
        f"{result.out}: {result.nbytes:,} bytes ({format_size(result.nbytes)}), {result.changed} tensors changed"
    )
    proof = result.certificate
    if proof.beyond:
        click.echo(
            f"not the same function: {proof.beyond}, which changes logits by {proof.stored:.1e}; what came before "
            f"changes them by {proof.exact:.1e} in float64 (relative, {proof.tokens} random tokens)"
        )
    else:
        click.echo(
            f"same function: logits differ by {proof.exact:.1e} in float64, by {proof.stored:.1e} as stored "
            f"(relative, {proof.tokens} random tokens)"
        )
    if result.calibrated_on:
        click.echo(f"calibrated on {result.calibrated_on}")
    click.echo(f"next: steelyard quantize {result.out} --out …, then steelyard measure … --against {model}")
