"""`steelyard barrier`: the loss along a path between models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.cli.options import add_options, build
from steelyard.edits.align.barrier import BarrierOptions


@click.command("barrier")
@click.argument("models", nargs=-1, required=True)
@add_options(BarrierOptions)
@click.option("--plot", type=click.Path(path_type=Path), help="an SVG file to draw the losses into")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(models: tuple[str, ...], plot: Path | None, as_json: bool, **values: Any) -> None:
    """Measure the loss along a path through MODELS, ends first and last."""
    from steelyard.cli.console import progress, show, show_json
    from steelyard.edits.align.barrier import measure_barrier

    found = measure_barrier(models, build(BarrierOptions, values), progress())
    if plot is not None:
        from steelyard.report.path_plot import draw_path

        plot.write_text(draw_path(found.places, f"loss from {found.models[0]} to {found.models[-1]}"))
    if as_json:
        show_json(found.to_dict())
        return
    from rich.table import Table

    table = Table("place", "loss", "95 % interval", "above the line", "", title=" → ".join(found.models))
    highest = max(found.height, 1e-9)
    for place in found.places:
        bar = "█" * round(24 * max(0.0, place.above) / highest)
        table.add_row(
            f"{place.at:.2f}",
            f"{place.loss:.4f}",
            f"{place.low:.4f} to {place.high:.4f}",
            f"{place.above:+.4f}",
            bar if found.height > 1e-4 else "",
        )
    show(table)
    click.echo(
        f"barrier: {found.height:.4f} nats per token above the line, {found.above_mean:.4f} above the ends' mean"
    )
    click.echo(f"measured on: {found.data}")
