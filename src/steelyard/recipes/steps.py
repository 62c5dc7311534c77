"""The steps a recipe may have, by name. A step turns a model folder into another one."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    from steelyard.budget.dry_run import DryRun


@dataclass(frozen=True)
class StepKind:
    """A step: what it does, and where its options and its function live.

    The function takes (model location, output folder, options, resume, progress).
    """

    name: str
    summary: str
    module: str
    options_name: str
    function_name: str
    dry_run_name: str

    def options(self) -> type[BaseModel]:
        """The options model."""
        model: type[BaseModel] = getattr(importlib.import_module(self.module), self.options_name)
        return model

    def function(self) -> Callable[..., Any]:
        """The function that does it."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.function_name)
        return found

    def plan(
        self, model: str, options: BaseModel, progress: Progress = SILENT, before: DryRun | None = None
    ) -> DryRun:
        """Return what the step would do, without doing it.

        Args:
            model: the model of the recipe.
            options: of the step.
            progress: receives how far the work is.
            before: the plan of the step before, None for the first.

        Raises:
            UserError: as the step would before it begins to work.
            CannotPlan: if only carrying out the steps before tells what this one would write.
        """
        function: Callable[..., DryRun] = getattr(importlib.import_module(self.module), self.dry_run_name)
        return function(model, options, progress) if before is None else function(model, options, progress, before)

    def __call__(self, model: str | Path, out: str | Path, options: BaseModel, **settings: Any) -> Any:
        """Do the step."""
        return self.function()(model, out, options, **settings)


STEPS: dict[str, StepKind] = {
    kind.name: kind
    for kind in (
        StepKind(
            "fit", "the best model that fits a size", "steelyard.budget.fit", "FitOptions", "fit_folder", "dry_run"
        ),
        StepKind(
            "quantize",
            "one codec for every matrix",
            "steelyard.budget.quantize",
            "QuantizeOptions",
            "quantize_folder",
            "dry_run",
        ),
        StepKind(
            "prepare",
            "the same function in weights that are easier to round",
            "steelyard.budget.prepare",
            "PrepareOptions",
            "prepare_folder",
            "dry_run",
        ),
        StepKind(
            "merge",
            "one model out of this and others",
            "steelyard.budget.merge",
            "MergeStepOptions",
            "merge_step",
            "dry_run",
        ),
        StepKind(
            "align",
            "its units in the order of another model's",
            "steelyard.budget.two_models",
            "AlignStepOptions",
            "align_step",
            "plan_align",
        ),
        StepKind(
            "fuse",
            "one model of this and another that was trained apart",
            "steelyard.budget.two_models",
            "FuseStepOptions",
            "fuse_step",
            "plan_fuse",
        ),
        StepKind(
            "merge-lora",
            "an adapter put into its weights",
            "steelyard.budget.two_models",
            "MergeLoraOptions",
            "merge_lora_step",
            "plan_merge_lora",
        ),
        StepKind(
            "extract-lora",
            "what it has that its base has not, as an adapter",
            "steelyard.budget.two_models",
            "ExtractStepOptions",
            "extract_lora_step",
            "plan_extract_lora",
        ),
        StepKind(
            "stitch",
            "this model and another, joined by maps between their blocks",
            "steelyard.budget.compose",
            "StitchStepOptions",
            "stitch_step",
            "stitch_dry_run",
        ),
        StepKind(
            "bridge",
            "this model with trained bridges to another",
            "steelyard.budget.compose",
            "BridgeStepOptions",
            "bridge_step",
            "bridge_dry_run",
        ),
        StepKind(
            "nest", "every size in one file", "steelyard.budget.nest", "NestOptions", "nest_folder", "dry_run"
        ),
        StepKind(
            "tune",
            "the codes of a quantized model, trained; its bytes stay",
            "steelyard.budget.tune",
            "TuneOptions",
            "tune_folder",
            "dry_run",
        ),
    )
}


def get(name: str) -> StepKind:
    """Return the step of that name.

    Raises:
        UserError: naming the nearest one and all there are.
    """
    if name in STEPS:
        return STEPS[name]
    near = difflib.get_close_matches(name, STEPS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"no step {name!r}; {hint}available: {', '.join(STEPS)}")
