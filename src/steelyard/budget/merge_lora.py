"""The `merge-lora` job: an adapter put into the weights of its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steelyard.budget.dry_run import DryRun
from steelyard.budget.merge import dry_run_of, merge_file
from steelyard.edits.merge.dialect.reading import parse_recipes
from steelyard.edits.merge.job import MergeResult, forecasts
from steelyard.edits.merge.options import MergeOptions, WritingOptions
from steelyard.progress import SILENT, Progress


def merge_adapter(
    base: str | Path,
    adapter: str | Path,
    out: str | Path,
    options: WritingOptions | None = None,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> MergeResult:
    """Write a model with a LoRA adapter in its weights; the base is never loaded, only streamed.

    Args:
        base: the model that the adapter is for, in any format Steelyard reads.
        adapter: a folder as peft saves it.
        out: the folder to make.
        options: element type, shard size, threads.
        resume: continue an interrupted run.
        progress: advanced by bytes.

    Raises:
        UserError: if the adapter is of another kind, or for another model.
    """
    asked = MergeOptions() if options is None else MergeOptions(**options.model_dump(exclude_unset=True))
    return merge_file(_recipe(base, adapter), out, asked, resume=resume, progress=progress)[0]


def plan_adapter(base: str | Path, adapter: str | Path, options: WritingOptions) -> DryRun:
    """Plan the merge of an adapter from headers.

    Raises:
        UserError: with everything that is wrong.
    """
    asked = MergeOptions(**options.model_dump())
    (found,) = forecasts(parse_recipes(json.dumps(_recipe(base, adapter))), asked, where="recipe")
    return dry_run_of(found, base)


def _recipe(base: str | Path, adapter: str | Path) -> dict[str, Any]:
    model = {"model": {"path": str(base)}, "lora": {"path": str(adapter)}}
    return {"merge_method": "passthrough", "models": [{"model": model}]}
