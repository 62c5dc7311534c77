"""`steelyard forecast plan`: the size, data, shape and hyperparameters for a budget."""

from __future__ import annotations

import math
from typing import Any

import click

from steelyard.cli.forecast_options import Asked, pairs, run_options
from steelyard.errors import UserError


@click.command("plan")
@run_options
@click.option("--flops", type=float, help="operations for training and serving together")
@click.option("--hours", type=float, help="hours of one device; with --device")
@click.option("--device", help="whose hours: a name that weigh knows, such as h100-sxm")
@click.option("--loss", type=float, help="a loss to reach at the least operations")
@click.option("--served", default="0", help="tokens that the model will read and write in its life, such as 1T")
@click.option("--size", help="bytes that the served weights may take, such as 8GB; with --bits")
@click.option("--bits", type=float, default=16.0, help="of a served weight  [default: 16]")
@click.option("--tokens", help="the most tokens there are to train on, such as 300B")
@click.option("--with", "others", default="", metavar="NAME=VALUE,…", help="further columns of the law, such as U")
@click.option("--vocabulary", type=int, default=32000, help="of the shape  [default: 32000]")
@click.option("--bootstraps", type=click.IntRange(20), default=200, help="resamples  [default: 200]")
def command(
    asked: Asked,
    flops: float | None,
    hours: float | None,
    device: str | None,
    loss: float | None,
    served: str,
    size: str | None,
    bits: float,
    tokens: str | None,
    others: str,
    vocabulary: int,
    bootstraps: int,
) -> None:
    """Choose N and D for a budget from a law fitted to RUNS: one of --flops, --hours or --loss."""
    from dataclasses import asdict

    from steelyard.cli.console import show_json
    from steelyard.forecast.job import fit_runs, plain, predict
    from steelyard.forecast.planning import Goal, plan
    from steelyard.units import parse_size

    if (hours is None) != (device is None):
        raise UserError("plan: --hours and --device go together")
    compute = flops
    if hours is not None and device is not None:
        if flops is not None:
            raise UserError("plan: give --flops or --hours, not both")
        compute = 3600 * hours * _device(device).operations_per_second()
    goal = Goal(
        compute,
        loss,
        _count(served, "--served"),
        math.inf if size is None else parse_size(size) * 8 / bits,
        math.inf if tokens is None else _count(tokens, "--tokens"),
        pairs(others, "--with"),
    )
    report = fit_runs(asked.table(), asked.law, bootstraps=bootstraps, seed=asked.seed)
    chosen = plan(report.fit, goal, report.bootstrap.coordinates)
    forecast = predict(report, {"N": chosen.parameters, "D": chosen.tokens, **goal.others})
    data: dict[str, Any] = {
        "law": report.fit.law.name,
        "plan": plain(asdict(chosen)),
        "forecast": forecast.to_dict(),
        "shape": _shape(chosen.parameters, vocabulary),
        "rules": _rules(chosen.parameters, chosen.tokens),
        "notes": list(report.notes),
    }
    if device is not None:
        data["hours"] = chosen.training / _device(device).operations_per_second() / 3600
    if asked.as_json:
        show_json(data)
        return
    _show(data, chosen, forecast)


def _device(name: str) -> Any:
    from steelyard.weigh.devices import find_device

    return find_device(name)


def _count(text: str, option: str) -> float:
    from steelyard.forecast.quantities import number

    value = number(text)
    if value is None or not math.isfinite(value) or value < 0:
        raise UserError(f"{option} {text}: give a number such as 300B or 1.5T")
    return value


def _shape(parameters: float, vocabulary: int) -> dict[str, Any]:
    from steelyard.forecast.shapes import shape_for
    from steelyard.spec import ModelSpec
    from steelyard.weigh.setup import TrainingSetup
    from steelyard.weigh.training import plan_training

    try:
        shape = shape_for(parameters, vocabulary)
    except UserError as error:
        return {"problem": str(error)}
    spec = ModelSpec.from_config(shape.config, dtype="BF16")
    memory = plan_training(spec, TrainingSetup(batch=1, sequence=2048))
    return {
        "label": shape.label,
        "parameters": shape.parameters,
        "config": shape.config,
        "training_bytes": memory.total,
        "served_bytes": 2 * shape.parameters,
    }


def _rules(n: float, d: float) -> list[dict[str, Any]]:
    from steelyard.forecast.rules import RULES

    return [
        {"rule": name, "lr": float(RULES[name](n, d)[0]), "batch": float(RULES[name](n, d)[1])}
        for name in ("step", "deepseek")
    ]


def _show(data: dict[str, Any], chosen: Any, forecast: Any) -> None:
    from steelyard.units import format_size

    click.echo(
        f"N = {chosen.parameters:.4g}, D = {chosen.tokens:.4g}: {chosen.tokens / chosen.parameters:.1f} tokens for "
        "each parameter"
    )
    click.echo(
        f"  flat from N = {chosen.basin[0]:.3g} to {chosen.basin[1]:.3g}: any of them is as good as this one"
    )
    click.echo(f"  90 % of resampled fits choose N from {chosen.interval[0]:.3g} to {chosen.interval[1]:.3g}")
    if chosen.bound:
        click.echo(f"  bound by the cap on {chosen.bound}")
    click.echo(f"training {chosen.training:.4g} operations, serving {chosen.serving:.4g}")
    if "hours" in data:
        click.echo(f"  {data['hours']:,.1f} hours of the device at the share of its peak that products reach")
    words = f"loss {chosen.loss:.4f}"
    if forecast.low is not None and forecast.high is not None:
        words += f", 90 % of such forecasts {forecast.low:.4f} … {forecast.high:.4f}"
    click.echo(words)
    for warning in forecast.warnings:
        click.echo(f"  warning: {warning}")
    shape = data["shape"]
    if "problem" in shape:
        click.echo(f"shape: {shape['problem']}")
    else:
        click.echo(f"shape: {shape['label']}: {shape['parameters']:,} parameters (Llama, tied embeddings)")
        click.echo(
            f"  training takes {format_size(shape['training_bytes'])} (bf16, AdamW, one sequence of 2048), "
            f"16-bit weights {format_size(shape['served_bytes'])}"
        )
    for rule in data["rules"]:
        click.echo(f"rule {rule['rule']}: learning rate {rule['lr']:.3g}, batch {rule['batch']:,.0f} tokens")
    click.echo(f"law: {data['law']}")
    for note in data["notes"]:
        click.echo(f"note: {note}")
