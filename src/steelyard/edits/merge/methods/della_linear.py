"""DELLA's random entries of task vectors, added."""

from __future__ import annotations

from pydantic import BaseModel

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._sparsifiers import AtRandomByRank
from steelyard.edits.merge.methods._task_vectors import RankedExpert, merge_task_vectors, mixing_options
from steelyard.edits.merge.registry import merge_method


@merge_method(
    name="della_linear",
    summary="entries of task vectors at random, the large more surely, added",
    paper="Deep et al. 2024, arXiv 2406.11617",
    options=mixing_options("DellaLinearOptions", normalize=False, rescale=True),
    per_model=RankedExpert,
    base="required",
    mergekit="della_linear",
)
def della_linear(task: Task, options: BaseModel) -> Merge:
    """Keep each entry with a chance between `density` -/+ `epsilon` by its rank within its row.

    Source: Deep et al. 2024, arXiv 2406.11617, section 3: MagPrune.
    """
    return merge_task_vectors(task, options, AtRandomByRank)
