"""`steelyard convert`: the same numbers in another format."""

from __future__ import annotations

from pathlib import Path

import click

_FORMATS = (
    "compressed-tensors",
    "steelyard",
    "dense",
    "gguf",
    "gptq",
    "gptq-v2",
    "awq",
    "bitsandbytes",
    "fp8",
)


@click.command("convert")
@click.argument("model")
@click.option("--format", "format_name", type=click.Choice(_FORMATS), required=True, help="what to write")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="the folder to make")
@click.option("--requantize", is_flag=True, help="round anew what the format cannot hold as it is")
@click.option("--type", "kind", help="gguf: round every matrix anew to this type, such as Q4_K")
@click.option("--mix", help="gguf: round every matrix anew as llama.cpp mixes its types, such as Q4_K_M")
@click.option("--max-shard-size", help="begin a new file above this size  [default: 5GB; gguf: one file]")
@click.option("--resume", is_flag=True, help="continue an interrupted run")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(
    model: str,
    format_name: str,
    out: Path,
    requantize: bool,
    kind: str | None,
    mix: str | None,
    max_shard_size: str | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Write MODEL, a folder or a GGUF file, in another format, the same numbers bit for bit."""
    from steelyard.budget.convert import convert_model
    from steelyard.cli.console import progress, show_json
    from steelyard.cli.show import size_of
    from steelyard.formats.container import shard_bytes
    from steelyard.units import format_size

    result = convert_model(
        model,
        out,
        format_name,
        requantize=requantize,
        type=kind,
        mix=mix,
        max_shard_size=shard_bytes(max_shard_size),
        resume=resume,
        progress=progress(),
    )
    if as_json:
        show_json(result.to_dict())
        return
    click.echo(
        f"{size_of(result)}, from {format_size(result.source_bytes)}; "
        f"{len(result.exact)} encoded tensors read as the same numbers"
    )
    if result.requantized:
        worst = max(result.requantized, key=lambda name: result.requantized[name])
        click.echo(
            f"{len(result.requantized)} were rounded anew; largest relative error "
            f"{result.requantized[worst]:.4f}, {worst}"
        )
    if result.plain:
        click.echo(f"{len(result.plain)} became plain numbers of the model's type")
