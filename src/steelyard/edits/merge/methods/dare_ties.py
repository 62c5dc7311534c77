"""DARE with the signs of TIES."""

from __future__ import annotations

from pydantic import BaseModel

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._sparsifiers import AtRandom
from steelyard.edits.merge.methods._task_vectors import WeightedExpert, merge_task_vectors, mixing_options
from steelyard.edits.merge.registry import merge_method


@merge_method(
    name="dare_ties",
    summary="random entries of task vectors, rescaled, added where they agree with the elected sign",
    paper="Yu et al. 2023, arXiv 2311.03099",
    options=mixing_options("DareTiesOptions", normalize=False, rescale=True),
    per_model=WeightedExpert,
    base="required",
    mergekit="dare_ties",
)
def dare_ties(task: Task, options: BaseModel) -> Merge:
    """Keep each entry of a task vector with the chance `density`, elect a sign for each entry, add what has it.

    Source: Yu et al. 2023, arXiv 2311.03099, section 3.1, with arXiv 2306.01708, algorithm 1.
    """
    return merge_task_vectors(task, options, AtRandom, elect=True)
