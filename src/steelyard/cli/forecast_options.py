"""What the verbs of `forecast` share: where the runs are, what is made small, and how tables are printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from steelyard.errors import UserError

if TYPE_CHECKING:
    from steelyard.forecast.objective import Objective
    from steelyard.forecast.runs import RunTable


@dataclass(frozen=True)
class Asked:
    """What every verb that reads runs was asked.

    Attributes:
        runs: path of the table.
        mapping: which column is what, in words.
        where: conditions on the rows kept.
        law: name of a law, or auto.
        seed: of all draws.
        as_json: print plain JSON.
    """

    runs: str
    mapping: str
    where: tuple[str, ...]
    law: str
    seed: int
    as_json: bool

    def table(self) -> RunTable:
        """Read the table."""
        return read(self.runs, self.mapping, self.where)


def run_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command RUNS, --map, --where, --law, --seed and --json, as one argument `asked`."""

    @wraps(function)
    def command(
        runs: str, mapping: str, where: tuple[str, ...], law: str, seed: int, as_json: bool, **others: Any
    ) -> None:
        function(asked=Asked(runs, mapping, where, law, seed, as_json), **others)

    for option in (
        click.option("--json", "as_json", is_flag=True, help="print plain JSON"),
        click.option("--seed", type=int, default=0, help="of all draws  [default: 0]"),
        click.option("--law", default="auto", help="name of a law, or auto  [default: auto]"),
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
        command = option(command)
    return command


def objective_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command --loss, --delta and --plain, as one argument `objective`; None for the law's own default."""

    @wraps(function)
    def command(kind: str, delta: float, plain: bool, **others: Any) -> None:
        function(objective=_objective(kind, delta, plain), **others)

    for option in (
        click.option("--plain", is_flag=True, help="residuals of losses instead of their logarithms"),
        click.option("--delta", type=float, default=1e-3, help="where Huber turns linear  [default: 0.001]"),
        click.option(
            "--loss", "kind", type=click.Choice(["huber", "l1", "l2"]), default="huber", help="of residuals"
        ),
    ):
        command = option(command)
    return command


def fit_options(bootstraps: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command --starts and --bootstraps.

    Args:
        bootstraps: resamples where nothing is said.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        draws = click.option(
            "--bootstraps", type=click.IntRange(20), default=bootstraps, help=f"resamples  [default: {bootstraps}]"
        )
        starts = click.option("--starts", type=click.IntRange(1), default=64, help="fits begun  [default: 64]")
        return starts(draws(function))

    return decorate


def read(runs: str, mapping: str, where: tuple[str, ...]) -> RunTable:
    """Return the table that a command was given."""
    from steelyard.forecast.runs import read_runs

    return read_runs(runs, mapping, where)


def _objective(kind: str, delta: float, plain: bool) -> Objective | None:
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
