"""Model Breadcrumbs with the signs of TIES."""

from __future__ import annotations

from pydantic import BaseModel

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._sparsifiers import Middling
from steelyard.edits.merge.methods._task_vectors import OutlierExpert, merge_task_vectors, mixing_options
from steelyard.edits.merge.registry import merge_method


@merge_method(
    name="breadcrumbs_ties",
    summary="task vectors without their smallest and largest entries, added where they agree with the elected sign",
    paper="Davari and Belilovsky 2023, arXiv 2312.06795",
    options=mixing_options("BreadcrumbsTiesOptions", normalize=False, rescale=False),
    per_model=OutlierExpert,
    base="required",
    mergekit="breadcrumbs_ties",
)
def breadcrumbs_ties(task: Task, options: BaseModel) -> Merge:
    """Drop the share `gamma` of largest magnitude and the smallest until `density` remains; elect signs.

    Source: Davari and Belilovsky 2023, arXiv 2312.06795, section 3, with arXiv 2306.01708, algorithm 1.
    """
    return merge_task_vectors(task, options, Middling, elect=True)
