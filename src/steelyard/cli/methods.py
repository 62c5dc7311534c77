"""`steelyard methods`: the generated table of methods."""

from __future__ import annotations

import click


@click.command("methods")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
@click.option("--markdown", is_flag=True, help="print the table as the docs show it")
def command(as_json: bool, markdown: bool) -> None:
    """List every registered method with what it does and its paper."""
    from steelyard.cli.console import show, show_json
    from steelyard.edits import registry

    rows = registry.table()
    if as_json:
        show_json(rows)
        return
    if markdown:
        print("| method | what it does | paper |\n| --- | --- | --- |")
        for row in rows:
            print(f"| `{row['name']}` | {row['summary']} | {row['paper']} |")
        return
    from rich.table import Table

    table = Table("method", "what it does", "paper")
    for row in rows:
        table.add_row(row["name"], row["summary"], row["paper"])
    show(table)
