"""The `merge-lora` job: an adapter put into the weights of its base."""

from __future__ import annotations

from pathlib import Path

from steelyard.budget.merge import merge_file
from steelyard.edits.merge.job import MergeResult
from steelyard.edits.merge.options import MergeOptions
from steelyard.progress import SILENT, Progress


def merge_adapter(
    base: str | Path,
    adapter: str | Path,
    out: str | Path,
    options: MergeOptions | None = None,
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
    model = {"model": {"path": str(base)}, "lora": {"path": str(adapter)}}
    recipe = {"merge_method": "passthrough", "models": [{"model": model}]}
    return merge_file(recipe, out, options, resume=resume, progress=progress)[0]
