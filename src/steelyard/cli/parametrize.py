"""`steelyard parametrize`: initial values, learning rates and multipliers of every tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from steelyard.forecast.parametrize import Parametrization, Row
    from steelyard.forecast.parametrize.check import Axis, Check


@click.command("parametrize")
@click.argument("config")
@click.option("--base", metavar="BASE", help="the config that learning rate and deviation were found on")
@click.option(
    "--rule", default="mup", metavar="NAME", help="standard, mup, depth-mup, completep, u-mup", show_default=True
)
@click.option("--std", type=float, help="deviation of the base's matrices; its initializer_range if absent")
@click.option(
    "--folded", is_flag=True, help="with every multiplier held by the tensors, as groups and initial values have it"
)
@click.option(
    "--check", "checked", is_flag=True, help="train small models in several widths; fails if activations follow"
)
@click.option(
    "--axis", type=click.Choice(["width", "depth"]), default="width", show_default=True, help="what --check varies"
)
@click.option("--steps", type=click.IntRange(1), default=4, show_default=True, help="of --check")
@click.option("--seeds", type=click.IntRange(1), default=2, show_default=True, help="runs that --check averages")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="of --check's smallest model")
@click.option("--all", "every", is_flag=True, help="a line for every tensor, not for every kind")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(
    config: str,
    base: str | None,
    rule: str,
    std: float | None,
    folded: bool,
    checked: bool,
    axis: Axis,
    steps: int,
    seeds: int,
    lr: float | None,
    every: bool,
    as_json: bool,
) -> None:
    """Show how every tensor of CONFIG is initialised and trained so that BASE's hyperparameters hold.

    CONFIG and BASE are folders or config files. With --check the parametrization is put to the test on small models
    of the same kind, and the exit code is 1 if it fails.
    """
    from dataclasses import asdict, replace

    from steelyard.api import parametrize
    from steelyard.cli.console import show_json

    table = parametrize(config, base, rule, std)
    if checked:
        from steelyard.forecast.parametrize.check import coordinate_check
        from steelyard.forecast.parametrize.parametrization import make

        found = coordinate_check(
            table.spec,
            lambda spec, smallest: make(spec, smallest, rule),
            axis=axis,
            steps=steps,
            seeds=seeds,
            lr=lr,
            larger_heads=table.attention != 1.0 and not table.rule.absolute,
        )
        if as_json:
            show_json({**asdict(found), "passed": found.passed})
        else:
            _show_check(found)
        click.get_current_context().exit(0 if found.passed else 1)
    if folded:
        table = replace(table, rows=table.folded(), attention=1.0)
    if as_json:
        show_json(table.to_dict())
        return
    _show(table, every)


def _show(table: Parametrization, every: bool) -> None:
    from rich.table import Table

    from steelyard.cli.console import show

    drawn = Table("tensor", "part", "width", "init std", "lr", "eps", "decay", "forward")
    for name, count, row in _kinds(table.rows, every):
        drawn.add_row(
            f"{name} ({count})" if count > 1 else name,
            row.part if row.tied_to is None else "tied",
            f"{row.width:.4g}",
            "as tied" if row.tied_to else (f"{row.std:.4g}" if row.std else f"= {row.mean:.4g}"),
            *("" if row.tied_to else f"{value:.4g}" for value in (row.rate, row.epsilon, row.decay)),
            f"{row.forward:.4g}",
        )
    show(drawn)
    click.echo(f"rule: {table.rule.name} ({table.rule.paper})")
    click.echo(
        f"attention logits: times {table.attention:.4g} beyond what the model does; depth: {table.depth:.4g}"
    )
    if table.rule.independent_decay:
        click.echo("decay: independent of the learning rate")
    for note in table.notes:
        click.echo(f"note: {note}")


def _kinds(rows: tuple[Row, ...], every: bool) -> list[tuple[str, int, Row]]:
    """Return rows with the same values and the same name but for numbers once, with how many they are."""
    from dataclasses import replace

    found: dict[tuple[str, Row], list[Row]] = {}
    for row in rows:
        name = row.name if every else ".".join("*" if piece.isdigit() else piece for piece in row.name.split("."))
        found.setdefault((name, replace(row, name="")), []).append(row)
    return [(name, len(alike), alike[0]) for (name, _), alike in found.items()]


def _show_check(found: Check) -> None:
    from rich.table import Table

    from steelyard.cli.console import show

    drawn = Table(
        "activation", *(f"{found.axis} {length}" for length in found.lengths), "slope", "slope of change", "verdict"
    )
    for trend in found.trends:
        sizes = (f"{size:.3g}" for size in trend.sizes)
        drawn.add_row(trend.name, *sizes, f"{trend.size_slope:+.2f}", f"{trend.change_slope:+.2f}", trend.verdict)
    show(drawn)
    bad = [trend for trend in found.trends if trend.verdict != "flat"]
    said = "all keep their size" if not bad else f"{len(bad)} of {len(found.trends)} depend on the {found.axis}"
    click.echo(
        f"{found.rule} {'FAILED' if bad else 'passed'}: {said} ({found.axis}s {found.lengths[0]} to "
        f"{found.lengths[-1]}, {found.steps} steps, lr {found.lr:g}, slopes within {found.tolerance:g})"
    )
