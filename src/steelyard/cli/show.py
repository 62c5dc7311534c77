"""How the verbs print their results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from steelyard.cli.console import show, show_json
from steelyard.units import format_size

if TYPE_CHECKING:
    from steelyard.budget.dry_run import DryRun
    from steelyard.budget.fit import FitResult


class Written(Protocol):
    """The result of any job that writes a folder."""

    @property
    def out(self) -> Path:
        """The folder."""

    @property
    def nbytes(self) -> int:
        """Bytes of its weight files."""


def size_of(result: Written) -> str:
    """Return the folder and its size in words, with which the account of every job begins."""
    return f"{result.out}: {result.nbytes:,} bytes ({format_size(result.nbytes)})"


def show_origin(calibrated_on: str, kept: Sequence[str] = ()) -> None:
    """Print on what a job calibrated, and which matrices it left alone; nothing where there is nothing to say."""
    if calibrated_on:
        click.echo(f"calibrated on {calibrated_on}")
    if kept:
        click.echo(f"left as they were: {', '.join(kept)}")


def show_fit(result: FitResult) -> None:
    """Print a finished fit."""
    from steelyard.report.text import fit_table

    show(fit_table(result.report))
    click.echo(f"\nreport: {result.out / 'report.html'}")
    click.echo(f"next: steelyard measure {result.out} --against {result.report.request.model}")


def show_dry_run(plan: DryRun, as_json: bool) -> None:
    """Print a plan that was made without calibrating."""
    if as_json:
        show_json(plan.to_dict())
        return
    from rich.table import Table

    counts: dict[str, int] = {}
    for label in plan.tensors.values():
        counts[label] = counts.get(label, 0) + 1
    table = Table("stored as", "tensors", title=f"plan for {plan.model} ({plan.format})")
    for label, count in sorted(counts.items(), key=lambda item: -item[1]):
        table.add_row(label, str(count))
    show(table)
    click.echo(f"asked: {plan.asked} = {plan.budget:,} bytes ({format_size(plan.budget)})")
    click.echo(f"plan:  {plan.nbytes:,} bytes on disk, {plan.budget - plan.nbytes:,} under the budget")
    click.echo(f"smallest feasible: {plan.smallest:,} bytes")
    click.echo(f"takes: {plan.resources}")
    for note in plan.notes:
        click.echo(f"note: {note}")


def show_result(result: Written) -> None:
    """Print the result of any step."""
    from steelyard.budget.fit import FitResult

    if isinstance(result, FitResult):
        show_fit(result)
    else:
        click.echo(size_of(result))
