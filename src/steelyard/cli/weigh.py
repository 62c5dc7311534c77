"""`steelyard weigh`: what is in a model, from its headers and config alone."""

from __future__ import annotations

from typing import Any

import click

from steelyard.units import format_size


@click.command("weigh")
@click.argument("model")
@click.option("--context", type=int, help="also show the key-value cache for this many tokens")
@click.option("--batch", type=int, default=1, show_default=True, help="sequences in the key-value cache")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(model: str, context: int | None, batch: int, as_json: bool) -> None:
    """Show what MODEL (a folder, an id in the local Hugging Face cache, an fsspec URL) holds, by role."""
    from steelyard.cli.console import show, show_json
    from steelyard.jobs import open_model

    with open_model(model) as opened:
        spec = opened.spec
        ledger = spec.ledger()
        data: dict[str, Any] = {
            "model": model,
            "model_type": spec.model_type,
            "parameters": spec.parameter_count(),
            "weight_bytes": opened.checkpoint.weight_bytes,
            "files": len(opened.checkpoint.weight_files),
            "bits_per_parameter": 8 * opened.checkpoint.weight_bytes / max(spec.parameter_count(), 1),
            "roles": [
                {"role": r.role, "tensors": r.tensors, "parameters": r.parameters, "bytes": r.nbytes}
                for r in ledger.by_role()
            ],
            "ties": dict(spec.ties),
            "notes": list(spec.notes),
        }
        if context is not None:
            data["kv_cache_bytes"] = spec.kv_cache_bytes(context, batch)
    if as_json:
        show_json(data)
        return
    show(_table(data))
    click.echo(
        f"{data['parameters']:,} parameters, {data['weight_bytes']:,} bytes "
        f"({format_size(data['weight_bytes'])}) in {data['files']} file(s), "
        f"{data['bits_per_parameter']:.2f} bits per parameter with headers"
    )
    if context is not None:
        cache = data["kv_cache_bytes"]
        click.echo(f"key-value cache for {batch} x {context} tokens: {cache:,} bytes ({format_size(cache)})")
    for alias, canonical in data["ties"].items():
        click.echo(f"tied: {alias} is {canonical}")
    for note in data["notes"]:
        click.echo(f"note: {note}")
    click.echo(f"next: steelyard fit {model} --ratio 0.25 --out OUT")


def _table(data: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"{data['model']} ({data['model_type'] or 'unknown architecture'})")
    table.add_column("role")
    for column in ("tensors", "parameters", "bytes", "share"):
        table.add_column(column, justify="right")
    total = sum(row["bytes"] for row in data["roles"]) or 1
    for row in data["roles"]:
        table.add_row(
            row["role"] or "unknown",
            str(row["tensors"]),
            f"{row['parameters']:,}",
            f"{row['bytes']:,}",
            f"{100 * row['bytes'] / total:.1f} %",
        )
    return table
