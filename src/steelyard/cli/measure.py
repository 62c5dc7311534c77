"""`steelyard measure`: is the result as good?"""

from __future__ import annotations

import click


@click.command("measure")
@click.argument("model")
@click.option("--against", help="the model to compare with: divergence, agreement, flips, embeddings")
@click.option("--data", help="text to measure on: a file, a folder, JSONL or tokens")
@click.option("--sequences", type=int, default=128, show_default=True, help="sequences to measure on")
@click.option("--seed", type=int, default=0, show_default=True, help="seed of what is drawn")
@click.option("--tensors", is_flag=True, help="also each tensor's relative error against the other model's")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(
    model: str, against: str | None, data: str | None, sequences: int, seed: int, tensors: bool, as_json: bool
) -> None:
    """Measure MODEL with bootstrap intervals over documents, paired against another model where one is given."""
    if tensors and against is None:
        raise click.UsageError("--tensors compares two models: name the other with --against")
    from steelyard.budget.evaluation import measure_folder, metrics_of, tensor_errors
    from steelyard.cli.console import progress, show, show_json

    found = measure_folder(model, against, data, sequences=sequences, seed=seed, progress=progress())
    errors = tensor_errors(model, against, progress()) if tensors and against is not None else {}
    if as_json:
        show_json({**found.to_dict(), "tensor_errors": errors} if errors else found.to_dict())
        return
    from steelyard.report.text import metric_table

    title = f"{model} against {against}" if against else model
    show(metric_table(metrics_of(found), title=title))
    if errors:
        from rich.table import Table

        table = Table("tensor", "relative error")
        for name, error in errors.items():
            table.add_row(name, f"{error:.5f}")
        show(table)
    click.echo(f"measured on: {found.data}")
