"""What the verbs of `forecast` share: where the runs are, what is made small, and how tables are printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from steelyard.errors import UserError

if TYPE_CHECKING:
    from steelyard.forecast.objective import Objective
    from steelyard.forecast.runs import RunTable

Function = TypeVar("Function", bound=Callable[..., Any])


def run_options(function: Function) -> Function:
    """Give a command its table of runs: RUNS, --map and --where, and --json."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="print plain JSON"),
        click.option("--seed", type=int, default=0, help="of all draws  [default: 0]"),
        click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="only such rows; repeat for more"),
        click.option(
            "--map",
            "mapping",
            default="",
            metavar="N=COLUMN,…",
            help="which column is what: N=params,D=tokens,loss=val_loss; COLUMN:UNIT or COLUMN:1e9 say more",
        ),
        click.argument("runs"),
    ):
        function = option(function)
    return function


def objective_options(function: Function) -> Function:
    """Give a command --loss, --delta and --plain."""
    for option in (
        click.option("--plain", is_flag=True, help="residuals of losses instead of their logarithms"),
        click.option("--delta", type=float, default=1e-3, help="where Huber turns linear  [default: 0.001]"),
        click.option(
            "--loss", "kind", type=click.Choice(["huber", "l1", "l2"]), default="huber", help="of residuals"
        ),
    ):
        function = option(function)
    return function


def read(runs: str, mapping: str, where: tuple[str, ...]) -> RunTable:
    """Return the table that a command was given."""
    from steelyard.forecast.runs import read_runs

    return read_runs(runs, mapping, where)


def objective(kind: str, delta: float, plain: bool) -> Objective | None:
    """Return what is made small; None for the law's own default."""
    from steelyard.forecast.objective import Objective

    if kind == "huber" and delta == 1e-3 and not plain:
        return None
    if kind == "l1":
        return Objective("l1", delta, not plain)
    return Objective("l2" if kind == "l2" else "huber", delta, not plain)


def pairs(words: str, option: str) -> dict[str, float]:
    """Return numbers by name from "N=7e9,D=1.4T".

    Raises:
        UserError: if a word is no number by name.
    """
    from steelyard.forecast.quantities import number

    found = {}
    for word in filter(None, (word.strip() for word in words.split(","))):
        name, equals, text = word.partition("=")
        value = number(text)
        if not equals or value is None or not math.isfinite(value):
            raise UserError(f"{option} {word}: give NAME=NUMBER, such as N=7e9,D=1.4T")
        found[name.strip()] = value
    return found


def short(value: float | None) -> str:
    """Return a constant with five digits."""
    if value is None:
        return "–"
    return "∞" if math.isinf(value) else f"{value:.5g}"


def columns_of(at: Mapping[str, float]) -> str:
    """Return a run's columns in words."""
    return ", ".join(f"{name} = {value:.4g}" for name, value in at.items())


def law_option(default: str) -> Callable[[Function], Function]:
    """Give a command --law."""
    return click.option("--law", default=default, help=f"name of a law, or auto  [default: {default}]")
