"""The `merge` job: recipes of mergekit's dialect, each result with its record."""

from __future__ import annotations

from pathlib import Path

from steelyard.budget.provenance import document, versions
from steelyard.edits.merge.dialect import read_recipes
from steelyard.edits.merge.job import MergeResult, merge_documents
from steelyard.edits.merge.options import MergeOptions
from steelyard.progress import SILENT, Progress


def merge_file(
    recipe: str | Path,
    out: str | Path,
    options: MergeOptions | None = None,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> list[MergeResult]:
    """Carry out the recipes of a YAML file, each with a `steelyard.json` beside its weights.

    Args:
        recipe: the file.
        out: the folder to make.
        options: what is not in the file.
        resume: continue an interrupted run.
        progress: advanced by bytes.

    Raises:
        UserError: with everything that is wrong, before a byte is written; or for a value that is not finite.
    """
    return merge_documents(
        read_recipes(Path(recipe)),
        out,
        options or MergeOptions(),
        where=str(recipe),
        resume=resume,
        record=lambda sections: document(**sections, versions=versions()),
        progress=progress,
    )
