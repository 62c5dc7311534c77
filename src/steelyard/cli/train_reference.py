"""`steelyard train-reference`: train the reference model from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.cli.options import add_options, build
from steelyard.errors import UserError
from steelyard.reference.options import TrainOptions
from steelyard.units import format_size


@click.command("train-reference")
@click.argument("out", type=click.Path(path_type=Path))
@add_options(TrainOptions)
@click.option("--resume", is_flag=True, help="continue from the last checkpoint in OUT")
@click.option(
    "--export", "export_to", type=click.Path(path_type=Path), help="then write a Hugging Face folder here"
)
@click.option(
    "--export-packed",
    "packed_to",
    type=click.Path(path_type=Path),
    help="with --export: also write its matrices in the codec they trained in (ternary, float8)",
)
def command(out: Path, resume: bool, export_to: Path | None, packed_to: Path | None, **values: Any) -> None:
    """Train a small Llama or Mamba on the Python standard library's sources in the run folder OUT.

    The defaults are those of the bundled model. A finished run can be continued with more --steps.
    """
    options = build(TrainOptions, values)
    if packed_to is not None and (export_to is None or options.linears not in ("ternary", "float8")):
        raise UserError("--export-packed needs --export, and --linears ternary or float8")
    from steelyard.reference.train import Run, Step, export

    run = Run(out, options, resume=resume)
    recent: list[float] = []

    def report(step: Step) -> None:
        recent.append(step.loss)
        if step.number % 20 == 0 or step.number == options.steps:
            rate = options.batch * options.sequence / step.seconds
            left = (options.steps - step.number) * step.seconds / 60
            mean = sum(recent[-20:]) / len(recent[-20:])
            click.echo(
                f"step {step.number:>6} of {options.steps}  loss {mean:.4f} nats/token  "
                f"{rate:,.0f} tokens/s  {left:.0f} min left",
                err=True,
            )

    run.train(report)
    if export_to is not None:
        export(out, export_to, options)
        click.echo(f"wrote {export_to}; next: steelyard weigh {export_to}")
        if packed_to is not None:
            from steelyard.reference.export import export_packed

            nbytes = export_packed(export_to, packed_to, options)
            click.echo(f"wrote {packed_to}: {format_size(nbytes)}, the same numbers")
