"""`steelyard verify`: read an output folder again, independently."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("verify")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--against", help="the model it was made from, to check every decoded tensor too")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(folder: Path, against: str | None, as_json: bool) -> None:
    """Check FOLDER against its steelyard.json: bytes, hashes, declared targets, decoded tensors."""
    from steelyard.budget.audit import audit
    from steelyard.cli.console import progress, show_json

    checks = audit(folder, against, progress())
    if as_json:
        show_json([check.to_dict() for check in checks])
        return
    for check in checks:
        click.echo(f"{check.status}  {check.name}: {check.detail}")
