"""TIES: trim, elect signs, merge what agrees."""

from __future__ import annotations

from pydantic import BaseModel

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._sparsifiers import Largest
from steelyard.edits.merge.methods._task_vectors import WeightedExpert, merge_task_vectors, mixing_options
from steelyard.edits.merge.registry import merge_method


@merge_method(
    name="ties",
    summary="the largest entries of task vectors, averaged where they agree with the elected sign",
    paper="Yadav et al. 2023, arXiv 2306.01708",
    options=mixing_options("TiesOptions", normalize=True, rescale=False),
    per_model=WeightedExpert,
    base="required",
    mergekit="ties",
)
def ties(task: Task, options: BaseModel) -> Merge:
    """Keep the share `density` of each task vector, elect a sign for each entry, average what has it.

    Source: Yadav et al. 2023, arXiv 2306.01708, algorithm 1: trim, elect, disjoint merge.
    """
    return merge_task_vectors(task, options, Largest, elect=True)
