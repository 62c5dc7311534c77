"""`steelyard tune`: train the codes of a quantized model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.budget.tune_options import TuneOptions
from steelyard.cli.options import add_options, build
from steelyard.units import format_size


@click.command("tune")
@click.argument("model")
@add_options(TuneOptions)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="the folder to make")
@click.option("--resume", is_flag=True, help="continue an interrupted run")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(model: str, out: Path, resume: bool, as_json: bool, **values: Any) -> None:
    """Train the codes and scales of MODEL towards the model it was made from; its bytes on disk stay."""
    from steelyard.budget.tune import tune_folder
    from steelyard.cli.console import progress, show_json

    result = tune_folder(model, out, build(TuneOptions, values), resume=resume, progress=progress())
    if as_json:
        show_json(result.to_dict())
        return
    click.echo(f"{result.out}: {result.nbytes:,} bytes ({format_size(result.nbytes)}), as before")
    click.echo(f"{len(result.trained)} tensors trained on {result.trained_on}")
    losses = result.history.losses
    click.echo(
        f"loss in training: {losses[0]:.4f} at the first of {len(losses)} steps, {losses[-1]:.4f} at the last"
    )
    before, after = result.before.damage, result.after.damage
    name = "KL" if result.after.kl is not None else "1 - cosine"
    click.echo(f"{name} from the teacher on held-out text: {before} before, {after} after")
    if before is not None and after is not None and after.value > before.value:
        click.echo("that is worse than it began: take more steps, or lower --rate")
    if result.notes:
        click.echo(", ".join(f"{name} {value:.3g}" for name, value in result.notes.items()))
