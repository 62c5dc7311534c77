"""`steelyard report`: build a folder's report again."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("folder", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Write report.html and its figures again from the steelyard.json in FOLDER, whose hashes of them follow."""
    from steelyard.report import rebuild

    for path in rebuild(folder):
        click.echo(str(path))
