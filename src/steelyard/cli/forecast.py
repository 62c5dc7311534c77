"""`steelyard forecast`: from a table of runs to decisions. Each of its verbs is a module of its own."""

from __future__ import annotations

import importlib

import click

VERBS = {
    "fit": "Fit a law, with intervals and what the runs do not identify.",
    "predict": "The loss of another run, with an interval and how far it lies beyond.",
    "compare": "Laws side by side on the runs of most compute, held out.",
    "plan": "Size, data, shape and hyperparameters for a budget, a loss or hours of a device.",
    "next": "Which runs to do next to make a forecast sure.",
    "audit": "A run held against the best that its operations buy.",
    "hparams": "Learning rate and batch by published rules, scored by what they lose on grids.",
    "laws": "The laws that can be fitted, and the constants published for them.",
}


class _Forecasts(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"steelyard.cli.forecast_{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group("forecast", cls=_Forecasts)
def command() -> None:
    """Scaling laws fitted to a table of RUNS: how big, how much data, what loss, and how sure."""
