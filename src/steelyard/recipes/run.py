"""Carrying out a recipe: step after step, intermediate folders in a work folder beside the result."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.errors import UserError
from steelyard.jobs import open_model
from steelyard.progress import SILENT, Progress
from steelyard.recipes import steps as registry
from steelyard.recipes.recipe import Recipe

if TYPE_CHECKING:
    from steelyard.budget.dry_run import DryRun

_MARKER = "recipe.json"


def run_recipe(recipe: Recipe, resume: bool = False, progress: Progress = SILENT) -> list[Any]:
    """Carry out all steps and return their results in order.

    Raises:
        UserError: as the steps do, or if the output folder exists.
    """
    out = Path(recipe.out)
    if out.exists():
        raise UserError(f"{out} already exists; choose another output folder or remove it")
    work = out.with_name(f".{out.name}.recipe")
    if len(recipe.steps) > 1:
        _begin(work, _identity(recipe), resume)
    results = []
    source = recipe.model
    try:
        for number, step in enumerate(recipe.steps, 1):
            last = number == len(recipe.steps)
            target = out if last else work / f"{number:02d}-{step.name}"
            if not target.exists():
                done = registry.get(step.name)(source, target, step.options, resume=resume, progress=progress)
                results.append(done)
            source = str(target)
    except BaseException:
        if work.exists() and {path.name for path in work.iterdir()} == {_MARKER}:
            shutil.rmtree(work)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return results


def _identity(recipe: Recipe) -> str:
    """Return what the steps depend on: the model's files, and every step with its options."""
    with open_model(recipe.model) as opened:
        model = opened.identity()
    steps = [[step.name, step.options.model_dump(mode="json")] for step in recipe.steps]
    return json.dumps({"model": model, "steps": steps})


def _begin(work: Path, identity: str, resume: bool) -> None:
    """Make the work folder; what an earlier run left is kept only if it belongs to the same recipe and model."""
    marker = work / _MARKER
    same = marker.is_file() and marker.read_text() == identity
    if work.exists() and not (resume and same):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    marker.write_text(identity)


@dataclass(frozen=True)
class RecipePlan:
    """What a recipe would do.

    Attributes:
        steps: plans of the steps in order, as far as they can be made.
        beyond: why the next step has none; "" where every step has.
    """

    steps: tuple[DryRun, ...]
    beyond: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"steps": [step.to_dict() for step in self.steps], "beyond": self.beyond}


def dry_run(recipe: Recipe, progress: Progress = SILENT) -> RecipePlan:
    """Return the plans of a recipe's steps, each from that of the step before, without writing anything.

    Raises:
        UserError: as a step would before it begins to work.
        CannotPlan: if not even the first can be planned.
    """
    from steelyard.budget.dry_run import CannotPlan

    plans: list[DryRun] = []
    for number, step in enumerate(recipe.steps, 1):
        kind, before = registry.get(step.name), plans[-1] if plans else None
        try:
            plans.append(kind.plan(recipe.model, step.options, progress, before))
        except CannotPlan as reason:
            beyond = f"step {number}, {step.name}, cannot be planned ahead: {reason}"
            if not plans:
                raise CannotPlan(beyond) from None
            return RecipePlan(tuple(plans), beyond)
    return RecipePlan(tuple(plans))
