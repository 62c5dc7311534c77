"""`steelyard forecast laws`: what can be fitted."""

from __future__ import annotations

import click


@click.command("laws")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(name: str | None, as_json: bool) -> None:
    """List the laws, or show the source and the published constants of one."""
    from steelyard.cli.console import show, show_json
    from steelyard.forecast import laws

    known = [laws.get(name)] if name else list(laws.laws().values())
    if as_json:
        show_json(
            [
                {
                    "name": law.name,
                    "formula": law.formula,
                    "paper": law.paper,
                    "columns": list(law.columns),
                    "target": law.target,
                    "constants": list(law.names),
                    "data": law.data,
                    "published": [
                        {
                            "label": one.label,
                            "constants": dict(one.constants),
                            "units": dict(one.units),
                            "ranges": {key: list(ends) for key, ends in one.ranges.items()},
                            "loss_unit": one.loss_unit,
                            "source": one.source,
                            "note": one.note,
                        }
                        for one in law.published
                    ],
                }
                for law in known
            ]
        )
        return
    if name is None:
        from rich.table import Table

        table = Table("law", "formula", "columns", "predicts")
        for law in known:
            table.add_row(law.name, law.formula, ", ".join(law.columns), law.target)
        show(table)
        return
    law = known[0]
    click.echo(f"{law.name}: {law.target} = {law.formula}\nsource: {law.paper}")
    for one in law.published:
        click.echo(f"\n{one.label} ({one.source}; {one.loss_unit})")
        click.echo("  " + ", ".join(f"{key} {value:.9g}" for key, value in one.constants.items()))
        for key, unit in one.units.items():
            click.echo(f"  {key} in units of {unit:g}")
        for key, (low, high) in one.ranges.items():
            click.echo(f"  fitted for {key} from {low:g} to {high:g}")
        if one.note:
            click.echo(f"  {one.note}")
