"""`steelyard merge`: one model out of several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from steelyard.cli.mergekit_options import given, mergekit_options
from steelyard.cli.options import add_options, build
from steelyard.edits.merge.options import MergeOptions
from steelyard.errors import UserError
from steelyard.units import format_size


@click.command("merge")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("folder", required=False, metavar="[OUT]")
@click.option(
    "--out", help="the folder to make, instead of OUT; an fsspec URL such as s3://bucket/model is one too"
)
@add_options(MergeOptions)
@mergekit_options
@click.option(
    "--tune",
    multiple=True,
    metavar="NAME=LOW:HIGH[:ANCHORS]",
    help="search this parameter first, as experts search does; repeat for more",
)
@click.option("--data", multiple=True, metavar="TASK=PATH", help="with --tune: text of a task; repeat for more")
@click.option("--evaluations", type=click.IntRange(1), default=60, help="with --tune: recipes measured")
@click.option("--resume", is_flag=True, help="continue an interrupted run")
@click.option("--dry-run", is_flag=True, help="check everything and say what it takes; write nothing")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(
    recipe: Path,
    folder: str | None,
    out: str | None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
    tune: tuple[str, ...],
    data: tuple[str, ...],
    evaluations: int,
    **values: Any,
) -> None:
    """Merge models as RECIPE says, a YAML file in mergekit's dialect, and write OUT."""
    from steelyard.cli.console import show_json
    from steelyard.edits.merge.problems import PreflightError

    values, notes = given({**values, "out": out})
    out = values.pop("out")
    if not as_json:
        for note in notes:
            click.echo(f"note: {note}")
    options = build(MergeOptions, values)
    try:
        if tune or data:
            recipe = _tuned(recipe, _target(folder, out), tune, data, evaluations, options.seed, resume, as_json)
        if dry_run:
            _forecast(recipe, options, as_json)
        else:
            _merge(recipe, _target(folder, out), options, resume, as_json)
    except PreflightError as error:
        if as_json:
            show_json(error.to_dict())
        raise


def _tuned(
    recipe: Path,
    out: str,
    ranges: tuple[str, ...],
    data: tuple[str, ...],
    evaluations: int,
    seed: int,
    resume: bool,
    quiet: bool,
) -> Path:
    """Search the recipe's numbers; return the file, beside the folder to be, that holds the best."""
    from steelyard.cli.experts import searched

    if not ranges or not data:
        raise UserError("--tune says what is searched and --data on which text; give both")
    tuned = Path(f"{out.rpartition('/')[2] if '://' in out else out.rstrip('/')}.yaml")
    searched(
        recipe, ranges, data, tuned, {"evaluations": evaluations, "seed": seed}, resume, "" if quiet else "text"
    )
    return tuned


def _target(folder: str | None, out: str | None) -> str:
    target = folder or out
    if target is None or (folder is not None and out is not None):
        raise click.UsageError("give the folder to make once, as OUT or with --out (or --dry-run to see the plan)")
    return target


def _forecast(recipe: Path, options: MergeOptions, as_json: bool) -> None:
    from steelyard.budget.merge import forecast_file
    from steelyard.cli.console import show_json

    found = forecast_file(recipe, options)
    if as_json:
        show_json(found)
        return
    for forecast in found:
        for note in forecast["notes"]:
            click.echo(f"note: {note}")
        label = f"{forecast['name']}: " if forecast["name"] else ""
        click.echo(f"{label}{forecast['method']} of {', '.join(forecast['models'])}")
        click.echo(f"{label}{forecast['sentence']}")


def _merge(recipe: Path, out: str, options: MergeOptions, resume: bool, as_json: bool) -> None:
    from steelyard.budget.merge import merge_file
    from steelyard.cli.console import progress, show_json

    results = merge_file(recipe, out, options, resume=resume, progress=progress())
    if as_json:
        show_json([result.to_dict() for result in results])
        return
    for result in results:
        for note in result.notes:
            click.echo(f"note: {note}")
        click.echo(
            f"{result.out}: {result.nbytes:,} bytes ({format_size(result.nbytes)}), {result.tensors} tensors, "
            f"{result.method} of {len(result.models)} {'model' if len(result.models) == 1 else 'models'}"
        )
