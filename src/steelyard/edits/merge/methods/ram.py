"""Reinforced agent merging: what one expert changed is its own, what several changed is averaged."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._ram import Shared
from steelyard.edits.merge.methods._rows import base_of, only
from steelyard.edits.merge.registry import merge_method


class RamOptions(BaseModel):
    """Options of reinforced agent merging."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon: float = Field(1e-5, gt=0, allow_inf_nan=False, description="change up to which an entry is unchanged")


@merge_method(
    name="ram",
    summary="entries that one expert changed are kept whole, those that several changed are averaged over them",
    paper="arXiv 2601.13572",
    options=RamOptions,
    base="required",
    mergekit="ram",
)
def ram(task: Task, options: RamOptions) -> Merge:
    """Merge task vectors by how many experts changed an entry.

    Source: arXiv 2601.13572, reinforced agent merging, as mergekit 0.1.5 has it.
    """
    if not task.experts:
        return only(task, base_of(task))
    return Shared(task, options.epsilon)
