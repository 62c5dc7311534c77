"""`steelyard tune`: train the codes of a quantized model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from steelyard.cli.show import size_of
from steelyard.cli.step import step_command

if TYPE_CHECKING:
    from steelyard.budget.tune import TuneResult


@step_command("tune")
def command(result: TuneResult, model: str) -> None:
    """Train the codes and scales of MODEL towards the model it was made from; its bytes on disk stay."""
    click.echo(f"{size_of(result)}, as before")
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
