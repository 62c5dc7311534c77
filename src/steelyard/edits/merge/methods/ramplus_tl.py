"""Reinforced agent merging that strengthens what experts have of their own, tensor by tensor."""

from __future__ import annotations

from pydantic import Field

from steelyard.edits.merge.base import Merge, Task
from steelyard.edits.merge.methods._ram import Shared
from steelyard.edits.merge.methods._rows import base_of, only
from steelyard.edits.merge.methods.ram import RamOptions
from steelyard.edits.merge.registry import merge_method


class RamplusTlOptions(RamOptions):
    """Options of reinforced agent merging with stronger unique entries."""

    r: float = Field(
        0.1, allow_inf_nan=False, description="growth of unique entries for each shared one per unique"
    )
    alpha: float = Field(
        0.2, ge=0, allow_inf_nan=False, description="ratio of shared to unique that counts at most"
    )


@merge_method(
    name="ramplus_tl",
    summary="as ram, with entries that one expert changed strengthened the more of its entries are shared",
    paper="arXiv 2601.13572",
    options=RamplusTlOptions,
    base="required",
    mergekit="ramplus_tl",
)
def ramplus_tl(task: Task, options: RamplusTlOptions) -> Merge:
    """Merge as `ram`, with unique entries times 1 + r min(shared / unique, alpha).

    Source: arXiv 2601.13572, reinforced agent merging plus, tensor-local as mergekit 0.1.5 has it.
    """
    if not task.experts:
        return only(task, base_of(task))
    return Shared(task, options.epsilon, options.r, options.alpha)
