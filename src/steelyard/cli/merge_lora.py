"""`steelyard merge-lora`: an adapter put into the weights of its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.cli.options import add_options, build, folder_options
from steelyard.edits.merge.options import WritingOptions
from steelyard.units import format_size


@click.command("merge-lora")
@click.argument("model", metavar="BASE")
@click.argument("adapter")
@add_options(WritingOptions)
@folder_options
def command(model: str, adapter: str, out: Path, resume: bool, as_json: bool, **values: Any) -> None:
    """Write BASE with the LoRA adapter ADAPTER in its weights, without loading either."""
    from steelyard.budget.merge_lora import merge_adapter
    from steelyard.cli.console import progress, show_json

    options = build(WritingOptions, values)
    result = merge_adapter(model, adapter, out, options, resume=resume, progress=progress())
    if as_json:
        show_json(result.to_dict())
        return
    click.echo(
        f"{result.out}: {result.nbytes:,} bytes ({format_size(result.nbytes)}), {result.tensors} tensors, "
        f"{model} with {adapter}"
    )
