"""`steelyard quantize`: one codec for every matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from steelyard.cli.show import show_origin, size_of
from steelyard.cli.step import step_command
from steelyard.units import format_size

if TYPE_CHECKING:
    from steelyard.budget.quantize import QuantizeResult


@step_command("quantize")
def command(result: QuantizeResult, model: str) -> None:
    """Encode every matrix of MODEL with one codec, tensor by tensor, in little memory."""
    click.echo(
        f"{size_of(result)}, {result.nbytes / result.source_bytes:.3f} of {format_size(result.source_bytes)}; "
        f"{result.encoded} tensors encoded and verified"
    )
    show_origin(result.calibrated_on, result.kept)
    click.echo(f"next: steelyard measure {result.out} --against {model}")
