"""`steelyard extract-lora`: the difference of two models as an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.cli.options import add_options, build, folder_options
from steelyard.edits.merge.lora.extract import ExtractOptions
from steelyard.units import format_size


@click.command("extract-lora")
@click.argument("model")
@click.option("--base", required=True, help="the model that the adapter is for")
@add_options(ExtractOptions)
@folder_options
def command(model: str, base: str, out: Path, resume: bool, as_json: bool, **values: Any) -> None:
    """Write what MODEL has that its base has not as a LoRA adapter; its error is measured as it is stored."""
    from steelyard.cli.console import progress, show_json
    from steelyard.edits.merge.lora.extract import extract_lora

    options = build(ExtractOptions, values)
    made = extract_lora(model, base, out, options, resume=resume, progress=progress())
    if as_json:
        show_json(made.to_dict())
        return
    ranks = sorted({tensor.rank for tensor in made.tensors})
    shown = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    click.echo(f"{made.out}: {made.nbytes:,} bytes ({format_size(made.nbytes)})")
    click.echo(
        f"{len(made.tensors)} matrices of rank {shown}; what they leave of the difference: {made.error:.2%} "
        "(Frobenius norm)"
    )
    worst = max(made.tensors, key=lambda tensor: tensor.error)
    click.echo(f"most in {worst.name}: {worst.error:.2%}")
    if made.saved:
        click.echo(f"saved whole: {len(made.saved)} tensors, such as {made.saved[0]}")
    if made.skipped:
        click.echo(f"left out: {len(made.skipped)} changed tensors, such as {made.skipped[0]}")
