"""`steelyard bridge`: an anchor that attends to another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.cli.options import add_options, build, plannable_options
from steelyard.edits.stitch.options import BridgeOptions


@click.command("bridge")
@click.argument("model", metavar="ANCHOR")
@click.argument("second", metavar="AUGMENT")
@add_options(BridgeOptions)
@plannable_options
def command(
    model: str, second: str, out: Path | None, resume: bool, dry_run: bool, as_json: bool, **values: Any
) -> None:
    """Let ANCHOR attend to AUGMENT through trained cross-attention; both stay as they are."""
    from steelyard.budget.compose import bridge_models, plan_bridging
    from steelyard.cli.console import progress, show_json
    from steelyard.cli.show import show_dry_run, size_of

    options = build(BridgeOptions, values)
    if dry_run:
        show_dry_run(plan_bridging(model, second, options), as_json)
        return
    if out is None:
        raise click.UsageError("--out is missing: the folder to make (or --dry-run to see the plan)")
    result = bridge_models(model, second, out, options, resume=resume, progress=progress())
    if as_json:
        show_json(result.to_dict())
        return
    click.echo(
        f"{size_of(result)}; bridges at {', '.join(result.joints)}, {result.trained:,} parameters trained in "
        f"{len(result.history)} steps; {result.flops:,} operations a token of a prompt of {result.tokens}"
    )
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in result.losses.items())
    click.echo(f"loss on {result.data}: {losses}")
    click.echo(f"next: steelyard measure {result.out}")
