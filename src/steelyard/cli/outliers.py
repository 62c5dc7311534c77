"""`steelyard outliers`: which channels make a model hard to round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from steelyard.measure.outliers import Diagnosis


@click.command("outliers")
@click.argument("model")
@click.option(
    "--calibration", help="a kept calibration of MODEL (fit, quantize and prepare keep one): its inputs too"
)
@click.option("--layers", is_flag=True, help="a line for every matrix instead of one for every role")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(model: str, calibration: str | None, layers: bool, as_json: bool) -> None:
    """Show which channels of MODEL's weights and inputs stand out, and what 4-bit rows make of its matrices."""
    from contextlib import nullcontext

    from steelyard.cli.console import show, show_json
    from steelyard.errors import UserError
    from steelyard.jobs import open_model
    from steelyard.measure.calibration import Calibration
    from steelyard.measure.identity import model_identity
    from steelyard.measure.outliers import STANDS_OUT, diagnose, rank_correlation

    with open_model(model) as opened:
        identity = model_identity(opened.checkpoint) if calibration else None
        kept = Calibration.open(calibration, identity) if calibration else nullcontext()
        with kept as known:
            found = list(diagnose(opened, known))
    if not found:
        raise UserError(f"{model} has no plain float linear maps; it may be quantized already")
    correlation = rank_correlation([item.kurtosis for item in found], [item.int4 for item in found])
    if as_json:
        show_json({"tensors": [item.to_dict() for item in found], "kurtosis_and_int4": correlation})
        return
    show(_table(model, found, layers))
    click.echo(
        f"a channel stands out from {STANDS_OUT:g} times the median one; kurtosis and the error of 4-bit rows have "
        f"rank correlation {correlation:+.2f} over {len(found)} matrices"
    )
    click.echo("next: steelyard prepare, or keep columns apart: the codec outliers")


def _table(model: str, found: list[Diagnosis], layers: bool) -> object:
    from rich.table import Table

    table = Table(title=f"{model}: channels that stand out")
    table.add_column("matrix" if layers else "role (worst of its matrices)")
    for column in (
        "kurtosis",
        "peak",
        "column max/med",
        "top 1 %",
        "out",
        "input max/med",
        "top 1 %",
        "out",
        "int4",
    ):
        table.add_column(column, justify="right")
    by_role: dict[str, list[Diagnosis]] = {}
    for item in found:
        by_role.setdefault(item.name if layers else item.role, []).append(item)
    for name, items in by_role.items():
        columns, inputs = [item.columns for item in items], [item.inputs for item in items if item.inputs]
        cells = [f"{max(item.kurtosis for item in items):.1f}", f"{max(item.peak for item in items):.1f}"]
        for group in (columns, inputs):
            cells += (
                [
                    f"{max(each.largest_by_median for each in group):.1f}",
                    f"{100 * max(each.top_share for each in group):.1f} %",
                    f"{sum(len(each.outliers) for each in group)}",
                ]
                if group
                else ["-", "-", "-"]
            )
        table.add_row(name, *cells, f"{max(item.int4 for item in items):.3f}")
    return table
