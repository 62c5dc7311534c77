"""Task arithmetic: the base plus weighted task vectors."""

from __future__ import annotations

from pydantic import BaseModel

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._task_vectors import WeightedExpert, merge_task_vectors, mixing_options
from steelyard.edits.merge.registry import merge_method


@merge_method(
    name="task_arithmetic",
    summary="the base plus weighted differences of experts from it",
    paper="Ilharco et al. 2022, arXiv 2212.04089",
    options=mixing_options("TaskArithmeticOptions", normalize=False, rescale=False),
    per_model=WeightedExpert,
    base="required",
    mergekit="task_arithmetic",
)
def task_arithmetic(task: Task, options: BaseModel) -> Merge:
    """Add weighted task vectors to the base; densities have no effect.

    Source: Ilharco et al. 2022, arXiv 2212.04089, section 2: theta + lambda * sum of task vectors.
    """
    return merge_task_vectors(task, options)
