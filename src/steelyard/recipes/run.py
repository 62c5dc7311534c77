"""Carrying out a recipe: step after step, intermediate folders in a work folder beside the result."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress
from steelyard.recipes import steps as registry
from steelyard.recipes.recipe import Recipe


def run_recipe(recipe: Recipe, resume: bool = False, progress: Progress = SILENT) -> list[Any]:
    """Carry out all steps and return their results in order.

    Raises:
        UserError: as the steps do, or if the output folder exists.
    """
    out = Path(recipe.out)
    if out.exists():
        raise UserError(f"{out} already exists; choose another output folder or remove it")
    work = out.with_name(f".{out.name}.recipe")
    if work.exists() and not resume:
        shutil.rmtree(work)
    results = []
    source = recipe.model
    for number, step in enumerate(recipe.steps, 1):
        last = number == len(recipe.steps)
        target = out if last else work / f"{number:02d}-{step.name}"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            results.append(registry.get(step.name)(source, target, step.options, resume=resume, progress=progress))
        source = str(target)
    shutil.rmtree(work, ignore_errors=True)
    return results


def dry_run(recipe: Recipe, progress: Progress = SILENT) -> Any:
    """Return the plan of a recipe's first step, without writing anything.

    Raises:
        UserError: as the step would before it begins to work, or if it cannot be planned ahead.
    """
    first = recipe.steps[0]
    return registry.get(first.name).plan(recipe.model, first.options, progress)
