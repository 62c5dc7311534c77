"""`steelyard nest`: one file that holds every size of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from steelyard.cli.show import show_origin, size_of
from steelyard.cli.step import step_command
from steelyard.units import format_size

if TYPE_CHECKING:
    from steelyard.budget.nest import NestResult


@step_command("nest")
def command(result: NestResult, model: str) -> None:
    """Write MODEL as nested tensors: one file to load at any size, to grow and to shed at run time."""
    click.echo(
        f"{size_of(result)} from {format_size(result.source_bytes)}; loads at {result.sizes} sizes from "
        f"{format_size(result.smallest)} to {format_size(result.largest)}"
    )
    show_origin(result.calibrated_on, result.kept)
    click.echo(f"next: steelyard shed {result.out} --size … --out …, or steelyard.load(…, budget_bytes=…)")
