"""`steelyard shed`: a nested folder cut to a size."""

from __future__ import annotations

from pathlib import Path

import click

from steelyard.cli.options import folder_options


@click.command("shed")
@click.argument("folder")
@click.option("--size", help="bytes of all weight files, such as 4MiB")
@click.option("--bits", type=int, help="the same level for all tensors: bits of nested codes, blocks of chains")
@folder_options
def command(folder: str, size: str | None, bits: int | None, out: Path, resume: bool, as_json: bool) -> None:
    """Cut the nested FOLDER to a size: bytes are copied, nothing is encoded anew."""
    from steelyard.budget.shed import shed_folder
    from steelyard.cli.console import progress, show_json
    from steelyard.cli.show import size_of
    from steelyard.units import format_size, parse_size

    limit = None if size is None else parse_size(size)
    result = shed_folder(folder, out, size=limit, bits=bits, resume=resume, progress=progress())
    if as_json:
        show_json(result.to_dict())
        return
    levels = sorted(set(result.levels.values()))
    click.echo(
        f"{size_of(result)} of {format_size(result.source_bytes)}; "
        f"{len(result.levels)} tensors at levels {levels[0]} to {levels[-1]}"
    )
