"""`steelyard weigh`: what is in a model and what it costs, from its headers and config alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from steelyard.weigh.answers import Answer
    from steelyard.weigh.compare import Comparison
    from steelyard.weigh.counts import Weighing

# Differences of a comparison that are listed; --json and --csv have all of them.
_LISTED = 20


@click.command("weigh")
@click.argument("model", required=False)
@click.option("--context", type=click.IntRange(1), help="tokens: also show operations and what is kept of them")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="sequences at once")
@click.option("--cache-bits", type=int, default=16, show_default=True, help="bits of a number in the cache")
@click.option("--dtype", help="element type to weigh a config without weights in, such as BF16")
@click.option(
    "--train", metavar="SETUP", help="memory of training: adamw,batch=8,sequence=2048,zero_stage=2,ranks=8"
)
@click.option("--on", "device", metavar="DEVICE", help="time, throughput and energy on a device (local: this one)")
@click.option("--fit-on", metavar="DEVICE", help="the largest batch, context and precision that fit on a device")
@click.option("--slo", metavar="GOAL", help="cheapest platforms for ttft=200ms,tpot=20ms")
@click.option("--trainable-on", metavar="DEVICE", help="the largest model that can be trained on a device")
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="devices")
@click.option("--parallelism", type=click.Choice(["tp", "pp"]), default="tp", help="how devices share a model")
@click.option(
    "--prompt", type=click.IntRange(1), help="tokens of a prompt; 1,024, or the context where that is less"
)
@click.option("--weight-bits", type=float, help="bits of a weight, scales included; as stored if absent")
@click.option("--host-memory", default="0", help="memory of the machine, for --trainable-on")
@click.option("--nvme", default="0", help="space on its drives, for --trainable-on")
@click.option("--against", metavar="OTHER", help="what grew, shrank and differs from OTHER to MODEL")
@click.option("--layers", is_flag=True, help="a line for every layer too")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
@click.option("--csv", "as_csv", is_flag=True, help="print a line for every tensor as CSV")
@click.option("--html", type=click.Path(dir_okay=False), help="write a page with a treemap and memory by context")
@click.option("--png", type=click.Path(file_okay=False), help="write the pictures into this folder")
@click.option("--calibrate-machine", is_flag=True, help="measure this machine and keep it as the device local")
def command(model: str | None, **options: Any) -> None:
    """Show what MODEL holds and what it costs.

    MODEL is a folder, a .safetensors, .gguf or config .json file, an id in the local Hugging Face cache or an
    fsspec URL. Nothing but headers and config is read.
    """
    from steelyard.errors import UserError

    if options["calibrate_machine"]:
        _calibrate(options["as_json"])
    if model is None:
        if options["trainable_on"]:
            _print(None, [_trainable(options)], options)
        elif not options["calibrate_machine"]:
            raise UserError("weigh: give a MODEL (a folder, a config or an id), or --calibrate-machine")
        return
    from steelyard.jobs import resolve
    from steelyard.weigh.counts import weigh

    location = resolve(model)
    if options["against"]:
        _compare(resolve(options["against"]), location, options)
        return
    weighed = weigh(location, options["dtype"])
    if options["as_csv"]:
        click.echo(weighed.to_csv(), nl=False)
        return
    _print(weighed, _answers(weighed, options), options, name=model)


def _answers(weighed: Weighing, options: dict[str, Any]) -> list[Answer]:
    """Answer every question that an option asks."""
    from steelyard.weigh import answers

    spec, context, batch = weighed.spec, options["context"], options["batch"]
    load = answers.Load(
        count=options["count"],
        parallelism=options["parallelism"],
        prompt=options["prompt"] or min(answers.PROMPT, context or answers.PROMPT),
        context=context,
        batch=batch,
        weight_bits=options["weight_bits"],
        cache_bits=options["cache_bits"],
    )
    asked: list[tuple[Any, Callable[[], Answer]]] = [
        (context, lambda: answers.compute(spec, context, batch)),
        (context, lambda: answers.cache(spec, context, batch, options["cache_bits"])),
        (options["train"], lambda: answers.training(spec, answers.training_setup(options["train"]))),
        (options["device"], lambda: answers.serving(spec, options["device"], load)),
        (options["fit_on"], lambda: answers.most(spec, options["fit_on"], load)),
        (options["slo"], lambda: answers.cheapest_platforms(spec, options["slo"], load)),
        (options["trainable_on"], lambda: _trainable(options)),
    ]
    return [answer() for wanted, answer in asked if wanted]


def _trainable(options: dict[str, Any]) -> Answer:
    from steelyard.units import parse_size
    from steelyard.weigh.answers import trainable

    return trainable(
        options["trainable_on"], options["count"], parse_size(options["nvme"]), parse_size(options["host_memory"])
    )


def _print(weighed: Weighing | None, answers: list[Answer], options: dict[str, Any], name: str = "") -> None:
    from steelyard.cli.console import show, show_json

    written = []
    if weighed is not None and options["html"]:
        from pathlib import Path

        from steelyard.weigh.report import write_html

        written.append(write_html(weighed, Path(options["html"]), [(a.heading, a.lines) for a in answers]))
    if weighed is not None and options["png"]:
        from pathlib import Path

        from steelyard.weigh.report import write_png

        written += write_png(weighed, Path(options["png"]))
    if options["as_json"]:
        data = {} if weighed is None else {**weighed.to_dict(), "model": name}
        show_json({**data, **{answer.key: answer.data for answer in answers}})
        return
    if weighed is not None:
        _show_counts(weighed, options["layers"], name)
    for answer in answers:
        show(_terms(answer))
    for file in written:
        click.echo(f"wrote {os.fspath(file)}")
    if weighed is not None and weighed.source == "weights":
        click.echo(f"next: steelyard fit {name} --ratio 0.25 --out OUT")


def _show_counts(weighed: Weighing, layers: bool, name: str) -> None:
    from steelyard.cli.console import show
    from steelyard.weigh.report import headline

    title = f"{name} ({weighed.spec.model_type or 'unknown architecture'})"
    show(_rows(title, "role", [(row.role or "unknown", row) for row in weighed.by_role()], weighed.nbytes.tensors))
    if layers:
        rows = [("outside" if row.layer is None else str(row.layer), row) for row in weighed.by_layer()]
        show(_rows("by layer", "layer", rows, weighed.nbytes.tensors))
    click.echo(headline(weighed))
    if weighed.quantized_bits_per_weight is not None:
        parts = weighed.nbytes
        click.echo(
            f"quantized tensors take {weighed.quantized_bits_per_weight:.3f} bits per weight; of the model's bytes "
            f"{parts.weights:,} are numbers, {parts.scales:,} scales, {parts.zero_points:,} zero points, "
            f"{parts.overhead:,} what is needed to read them"
        )
    for alias, canonical in weighed.spec.ties.items():
        click.echo(f"tied: {alias} is {canonical}")
    if weighed.spec.architecture is None:
        click.echo(f"note: no table describes {weighed.spec.model_type or 'this model'}: sizes by names and shapes")
    for note in weighed.notes:
        click.echo(f"note: {note}")


def _rows(title: str, heading: str, rows: list[tuple[str, Any]], total: int) -> Any:
    from rich.table import Table

    table = Table(title=title)
    table.add_column(heading)
    for column in ("tensors", "parameters", "stored as", "bytes", "bits", "share"):
        table.add_column(column, justify="left" if column == "stored as" else "right")
    for name, row in rows:
        table.add_row(
            name,
            f"{row.tensors:,}",
            f"{row.parameters:,}",
            row.encoding,
            f"{row.nbytes:,}",
            f"{row.bits_per_weight:.2f}",
            f"{100 * row.nbytes / max(1, total):.1f} %",
        )
    return table


def _terms(answer: Answer) -> Any:
    from rich.table import Table

    table = Table(title=answer.heading, show_header=False, title_justify="left")
    for name, words in answer.lines:
        table.add_row(name, words)
    return table


def _compare(before: str, after: str, options: dict[str, Any]) -> None:
    from steelyard.cli.console import progress, show_json
    from steelyard.weigh.compare import compare

    found = compare(before, after, progress())
    if options["as_json"]:
        show_json(found.to_dict())
        return
    if options["as_csv"]:
        click.echo("tensor,kind,before,after,bytes")
        for item in found.differences:
            click.echo(f'{item.name},{item.kind},"{item.before}","{item.after}",{item.bytes}')
        return
    _show_comparison(found)


def _show_comparison(found: Comparison) -> None:
    from rich.table import Table

    from steelyard.cli.console import show

    table = Table(title=f"from {found.before.subject.location} to {found.after.subject.location}")
    table.add_column("role")
    for column in ("parameters", "change", "bytes", "change"):
        table.add_column(column, justify="right")
    for role in found.roles:
        table.add_row(
            role.role or "unknown",
            f"{role.parameters_after:,}",
            f"{role.parameters_after - role.parameters_before:+,}",
            f"{role.bytes_after:,}",
            f"{role.bytes_after - role.bytes_before:+,}",
        )
    show(table)
    first, second = found.before, found.after
    click.echo(
        f"{first.parameters.unique:,} -> {second.parameters.unique:,} parameters, {first.nbytes.total:,} -> "
        f"{second.nbytes.total:,} bytes ({100 * second.nbytes.total / max(1, first.nbytes.total):.1f} %)"
    )
    for item in found.differences[:_LISTED]:
        click.echo(f"{item.kind}: {item.name}: {item.before or '-'} -> {item.after or '-'}")
    if len(found.differences) > _LISTED:
        click.echo(f"and {len(found.differences) - _LISTED} more: --json or --csv has all of them")
    looked = "" if found.compared_values else " in shape and type (values were not compared)"
    click.echo(f"{found.equal:,} tensors are the same{looked}, {len(found.differences):,} differ")


def _calibrate(as_json: bool) -> None:
    from dataclasses import asdict
    from importlib.util import find_spec

    from steelyard.cli.console import show_json
    from steelyard.weigh import machine

    if find_spec("torch") and find_spec("transformers"):
        from steelyard.measure.speed import calibrate

        device = calibrate()
    else:
        device = machine.calibrate()
    path = machine.save(device)
    if as_json:
        show_json(asdict(device))
        return
    peak = ", ".join(f"{rate / 1e9:,.0f} Gop/s in {number}" for number, rate in device.peak.items())
    click.echo(f"{device.title}: {device.bandwidth / 1e9:,.1f} GB/s, {peak}; kept in {path}")
    click.echo("next: steelyard weigh MODEL --on local")
