"""`steelyard run`: carry out a recipe."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("run")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="validate and print the plan of every step; write nothing")
@click.option("--resume", is_flag=True, help="continue an interrupted run")
@click.option("--json", "as_json", is_flag=True, help="print plain JSON")
def command(recipe: Path, dry_run: bool, resume: bool, as_json: bool) -> None:
    """Carry out the steps of the YAML file RECIPE."""
    from steelyard.cli.console import progress, show_json
    from steelyard.recipes import read_recipe, run_recipe

    parsed = read_recipe(recipe)
    if dry_run:
        from steelyard.cli.show import show_dry_run
        from steelyard.recipes.run import dry_run as plan_recipe

        plans = plan_recipe(parsed, progress())
        if as_json:
            show_json(plans.to_dict())
            return
        for plan in plans.steps:
            show_dry_run(plan, as_json)
        if plans.beyond:
            click.echo(plans.beyond)
        return
    results = run_recipe(parsed, resume=resume, progress=progress())
    if as_json:
        show_json([result.to_dict() for result in results])
        return
    from steelyard.cli.show import show_result

    for result in results:
        show_result(result)
