"""`steelyard experts`: what to make of several models fine-tuned from one base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from steelyard.cli.options import add_options, build
from steelyard.edits.merge.atlas import AtlasOptions
from steelyard.edits.merge.masks.build import MaskOptions
from steelyard.edits.merge.search.run import SearchOptions
from steelyard.errors import UserError
from steelyard.units import format_size

Function = TypeVar("Function", bound=Callable[..., Any])

_SIZES = ("sequences", "sequence_length")
_json = click.option("--json", "as_json", is_flag=True, help="print plain JSON")
_out = click.option("--out", required=True, type=click.Path(path_type=Path), help="the recipe to write (YAML)")


def _measured(required: bool = True) -> Callable[[Function], Function]:
    """Return a decorator that adds the options of what is measured on."""

    def decorate(function: Function) -> Function:
        function = click.option("--sequence-length", type=int, help="tokens in a window  [default: 256]")(function)
        function = click.option("--sequences", type=int, help="windows of each task  [default: 32]")(function)
        return click.option(
            "--data", multiple=True, required=required, metavar="TASK=PATH", help="text of a task; repeat for more"
        )(function)

    return decorate


@click.group("experts")
def command() -> None:
    """Several experts of one base: search their merge, learn it, average those that help, or keep all in one."""


@command.command("search")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--search",
    "ranges",
    multiple=True,
    required=True,
    metavar="NAME=LOW:HIGH[:ANCHORS]",
    help="a parameter to search, in every model that is no base; with anchors, a gradient over the layers",
)
@_measured()
@add_options(SearchOptions)
@_out
@click.option("--resume", is_flag=True, help="go on with an interrupted search")
@_json
def search_command(
    recipe: Path,
    ranges: tuple[str, ...],
    data: tuple[str, ...],
    out: Path,
    resume: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Search numbers of RECIPE for the least loss; half of the text decides, the other half says how good it is."""
    searched(recipe, ranges, data, out, values, resume, "json" if as_json else "text")
    if not as_json:
        click.echo(f"wrote {out}; next: steelyard merge {out} OUT")


def searched(
    recipe: Path,
    ranges: tuple[str, ...],
    data: tuple[str, ...],
    out: Path,
    values: dict[str, Any],
    resume: bool,
    told: str,
) -> None:
    """Search a recipe and write the best one found to `out`; tell of it as "text", as "json", or not at all."""
    from steelyard.cli.console import progress, show_json
    from steelyard.edits.merge.objective import read_texts
    from steelyard.edits.merge.search.job import search_recipe, write_recipe

    evaluation = _evaluation(values)
    found, result = search_recipe(
        recipe,
        ranges,
        read_texts(data),
        build(SearchOptions, values),
        evaluation,
        journal=out.with_name(out.name + ".journal.jsonl"),
        resume=resume,
        progress=progress(),
    )
    write_recipe(found.recipe, out)
    if told == "json":
        show_json(found.to_dict())
    if told != "text":
        return
    best = result.evaluations[result.best]
    click.echo(
        f"{len(result.evaluations)} recipes measured ({result.resumed} before); the best is number "
        f"{result.best + 1}, at {best.score:.4f} of the loss of the recipe given"
    )
    for name, value in zip(result.coordinates, result.values(result.best), strict=True):
        click.echo(f"  {name} = {value:g}")
    if len(best.losses) > 1:
        click.echo(f"{len(result.front)} of them are beaten by no other on every task:")
        _show_losses([(f"number {n + 1}", result.evaluations[n].losses) for n in result.front])
    _show_half(found.before, found.after, "as given", "found")


@command.command("learn")
@click.argument("base")
@click.argument("experts", nargs=-1, required=True)
@_measured()
@add_options(AtlasOptions)
@_out
@_json
def learn_command(
    base: str, experts: tuple[str, ...], data: tuple[str, ...], out: Path, as_json: bool, **values: Any
) -> None:
    """Learn how much of every tensor of EXPERTS, fine-tuned from BASE, to add to it (aTLAS)."""
    from steelyard.cli.console import progress, show_json
    from steelyard.edits.merge.objective import read_texts
    from steelyard.edits.merge.search.job import learn_coefficients, write_recipe

    evaluation = _evaluation(values)
    options = build(AtlasOptions, values)
    found = learn_coefficients(base, experts, read_texts(data), options, evaluation, progress())
    write_recipe(found.recipe, out)
    if as_json:
        show_json(found.to_dict())
        return
    losses = found.details["losses"]
    click.echo(
        f"{found.details['coefficients']} coefficients; the objective went from {losses[0]:.4f} to {losses[-1]:.4f}"
    )
    _show_half(found.before, found.after, f"every coefficient {options.start:g}", "learned")
    click.echo(f"wrote {out}; next: steelyard merge {out} OUT")


@command.command("soup")
@click.argument("models", nargs=-1, required=True)
@_measured(required=False)
@click.option(
    "--kind",
    type=click.Choice(["uniform", "greedy", "run"]),
    default="uniform",
    help="all alike, those that help, or the checkpoints of a run in order",
)
@click.option(
    "--decay", type=float, help="run: what each checkpoint leaves of those before it; all alike if absent"
)
@_out
@_json
def soup_command(
    models: tuple[str, ...],
    data: tuple[str, ...],
    kind: str,
    decay: float | None,
    out: Path,
    as_json: bool,
    **values: Any,
) -> None:
    """Average MODELS: all of them, or from the best to the worst those that do not make the average worse."""
    from dataclasses import replace

    from steelyard.cli.console import show_json
    from steelyard.edits.merge.objective import read_texts
    from steelyard.edits.merge.search.job import make_soup, write_recipe
    from steelyard.edits.merge.soups import along_run, uniform

    if (kind == "greedy") != bool(data):
        raise UserError("--kind greedy needs --data, the others measure nothing")
    if decay is not None and kind != "run":
        raise UserError("--decay is for --kind run")
    evaluation = _evaluation(values)
    if kind == "greedy":
        soup, between = make_soup(models, read_texts(data), evaluation)
        soup = replace(soup, barriers=between)
    else:
        soup = along_run(models, decay) if kind == "run" else uniform(models)
    write_recipe(soup.recipe(), out)
    if as_json:
        show_json(soup.to_dict())
        return
    for name, loss, kept in soup.tried:
        click.echo(
            f"{name}: alone {soup.alone[name]:.4f}, the average with it {loss:.4f}: {'kept' if kept else 'left'}"
        )
    for (first, second), barrier in soup.barriers.items():
        click.echo(f"half-way between {first} and {second}: {barrier:+.4f} nats per token above their mean")
    for name, weight in soup.weights.items():
        click.echo(f"  {weight:.4f}  {name}")
    click.echo(f"wrote {out}; next: steelyard merge {out} OUT")


@command.command("pack")
@click.argument("base")
@click.argument("experts", nargs=-1, required=True, metavar="TASK=EXPERT...")
@_measured(required=False)
@add_options(MaskOptions)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="the store to make")
@click.option("--resume", is_flag=True, help="continue an interrupted run")
@_json
def pack_command(
    base: str,
    experts: tuple[str, ...],
    data: tuple[str, ...],
    out: Path,
    resume: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Keep EXPERTS of BASE as one merged task vector and a bit an entry each (TALL-masks)."""
    from steelyard.budget.pack import pack_experts
    from steelyard.cli.console import progress, show_json
    from steelyard.edits.merge.objective import Objective, read_texts

    evaluation = _evaluation(values)
    options = build(MaskOptions, values)
    places = _named(experts)
    judge = Objective(base, read_texts(data), evaluation).loss if data else None
    result = pack_experts(base, places, out, options, judge, resume=resume, progress=progress())
    if as_json:
        show_json(result.to_dict())
        return
    for task, share in result.kept.items():
        click.echo(f"{task}: lambda {result.thresholds[task]:g}, keeps {share:.1%} of the merged vector")
    whole = result.base_bytes + result.nbytes
    click.echo(
        f"{result.out}: {result.nbytes:,} bytes ({format_size(result.nbytes)}); with the base "
        f"{format_size(whole)}, where {len(places)} experts take {format_size(result.expert_bytes)}"
    )
    click.echo(f"next: steelyard experts unpack {out} {next(iter(places))} OUT")


@command.command("unpack")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("task")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--base", help="the base model, if it is not where it was when the store was made")
@click.option("--resume", is_flag=True, help="continue an interrupted run")
def unpack_command(store: Path, task: str, out: Path, base: str | None, resume: bool) -> None:
    """Write the model of TASK from STORE as a folder OUT."""
    from steelyard.budget.pack import unpack_expert
    from steelyard.cli.console import progress

    click.echo(f"wrote {unpack_expert(store, task, out, base, resume=resume, progress=progress())}")


@command.command("cluster")
@click.argument("models", nargs=-1, required=True)
@click.option("--threshold", type=float, default=0.95, show_default=True, help="least likeness within a cluster")
@_measured(required=False)
@click.option(
    "--out", type=click.Path(path_type=Path), help="a folder for a recipe of each cluster and of their mixture"
)
@_json
def cluster_command(
    models: tuple[str, ...], threshold: float, data: tuple[str, ...], out: Path | None, as_json: bool, **values: Any
) -> None:
    """Say which of MODELS can be merged, and how: one architecture, weights that are alike (Model-GLUE)."""
    from steelyard.cli.console import show_json
    from steelyard.edits.merge.objective import read_texts
    from steelyard.edits.merge.search.job import sort_zoo, write_zoo

    evaluation = _evaluation(values)
    zoo, strategies = sort_zoo(models, threshold, read_texts(data), evaluation)
    written = write_zoo(zoo, strategies, out) if out is not None else []
    if as_json:
        show_json({**zoo.to_dict(), "strategies": [{"name": s.name, "scores": dict(s.scores)} for s in strategies]})
        return
    for number, (found, chosen) in enumerate(zip(zoo.clusters, strategies, strict=True), 1):
        click.echo(f"cluster {number}:")
        for name in found.models:
            click.echo(f"  {found.likeness[name]:.4f}  {name}")
        if chosen.scores:
            scores = ", ".join(f"{name} {score:.4f}" for name, score in chosen.scores.items())
            click.echo(f"  merged by {chosen.name} ({scores})")
    for path in written:
        click.echo(f"wrote {path}")


def _evaluation(values: dict[str, Any]) -> Any:
    """Take what says how much is measured out of the parsed options."""
    from steelyard.measure.evaluate import EvaluationOptions

    given = {name: values.pop(name, None) for name in _SIZES}
    given["sequences"] = given["sequences"] or 32
    return build(EvaluationOptions, given)


def _named(experts: Sequence[str]) -> dict[str, str]:
    places: dict[str, str] = {}
    for item in experts:
        task, equals, place = item.partition("=")
        if not equals or not task or not place or task in places:
            raise UserError(f"{item!r}: name every expert once, as TASK=EXPERT")
        places[task] = place
    return places


def _show_half(before: Mapping[str, float], after: Mapping[str, float], first: str, second: str) -> None:
    click.echo("nats per token on the half of the text that did not decide:")
    _show_losses([(first, before), (second, after)])


def _show_losses(rows: Sequence[tuple[str, Mapping[str, float]]]) -> None:
    from rich.table import Table

    from steelyard.cli.console import show

    tasks = list(rows[0][1])
    table = Table("", *tasks, "mean")
    for name, losses in rows:
        table.add_row(name, *(f"{losses[task]:.4f}" for task in tasks), f"{sum(losses.values()) / len(losses):.4f}")
    show(table)
