"""DARE: random entries of task vectors, rescaled, then added."""

from __future__ import annotations

from pydantic import BaseModel

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._sparsifiers import AtRandom
from steelyard.edits.merge.methods._task_vectors import WeightedExpert, merge_task_vectors, mixing_options
from steelyard.edits.merge.registry import merge_method


@merge_method(
    name="dare_linear",
    summary="random entries of task vectors, rescaled, then added",
    paper="Yu et al. 2023, arXiv 2311.03099",
    options=mixing_options("DareLinearOptions", normalize=False, rescale=True),
    per_model=WeightedExpert,
    base="required",
    mergekit="dare_linear",
)
def dare_linear(task: Task, options: BaseModel) -> Merge:
    """Keep each entry of a task vector with the chance `density`.

    The paper divides what is kept by the chance; as mergekit does, `rescale` brings it back to the sum of
    magnitudes it had before, which comes to the same on average.

    Source: Yu et al. 2023, arXiv 2311.03099, section 3.1: drop and rescale.
    """
    return merge_task_vectors(task, options, AtRandom)
