"""Model Breadcrumbs: neither the smallest nor the largest entries of task vectors."""

from __future__ import annotations

from pydantic import BaseModel

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._sparsifiers import Middling
from steelyard.edits.merge.methods._task_vectors import OutlierExpert, merge_task_vectors, mixing_options
from steelyard.edits.merge.registry import merge_method


@merge_method(
    name="breadcrumbs",
    summary="task vectors without their smallest and largest entries, added",
    paper="Davari and Belilovsky 2023, arXiv 2312.06795",
    options=mixing_options("BreadcrumbsOptions", normalize=False, rescale=False),
    per_model=OutlierExpert,
    base="required",
    mergekit="breadcrumbs",
)
def breadcrumbs(task: Task, options: BaseModel) -> Merge:
    """Drop the share `gamma` of largest magnitude, and then the smallest until `density` remains.

    Source: Davari and Belilovsky 2023, arXiv 2312.06795, section 3: masks from both tails.
    """
    return merge_task_vectors(task, options, Middling)
