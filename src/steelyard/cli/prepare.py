"""`steelyard prepare`: the same function in weights that are easier to round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from steelyard.cli.show import show_origin, size_of
from steelyard.cli.step import step_command

if TYPE_CHECKING:
    from steelyard.budget.prepare import PrepareResult


@step_command("prepare")
def command(result: PrepareResult, model: str) -> None:
    """Rotate, smooth or equalize MODEL: the same function, proved in float64, that loses less when rounded."""
    click.echo(f"{size_of(result)}, {result.changed} tensors changed")
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
    show_origin(result.calibrated_on)
    click.echo(f"next: steelyard quantize {result.out} --out …, then steelyard measure … --against {model}")
