"""Verbs that are recipes of one step: what they take is the step's options, and what all of them take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from steelyard.cli.options import add_options, build
from steelyard.recipes import steps

Show = Callable[[Any, str], None]
"""Prints a result for people; the second argument is the model as it was given."""


def step_command(name: str) -> Callable[[Show], click.Command]:
    """Return the decorator that makes a verb of the step `name` from what prints its result.

    The docstring of the decorated function is the verb's help.
    """
    kind = steps.get(name)

    def decorate(show: Show) -> click.Command:
        @click.command(name, help=show.__doc__)
        @click.argument("model")
        @add_options(kind.options())
        @click.option("--out", type=click.Path(path_type=Path), help="the folder to make")
        @click.option("--resume", is_flag=True, help="continue an interrupted run")
        @click.option("--dry-run", is_flag=True, help="print a plan made without calibrating; write nothing")
        @click.option("--json", "as_json", is_flag=True, help="print plain JSON")
        def command(
            model: str, out: Path | None, resume: bool, dry_run: bool, as_json: bool, **values: Any
        ) -> None:
            from steelyard.cli.console import progress, show_json
            from steelyard.cli.show import show_dry_run

            options = build(kind.options(), values)
            if dry_run:
                show_dry_run(kind.plan(model, options, progress()), as_json)
                return
            if out is None:
                raise click.UsageError("--out is missing: the folder to make (or --dry-run to see the plan)")
            result = kind(model, out, options, resume=resume, progress=progress())
            if as_json:
                show_json(result.to_dict())
            else:
                show(result, model)

        return command

    return decorate
