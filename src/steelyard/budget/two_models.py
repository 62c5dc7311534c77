"""Steps of a recipe that need a second model or an adapter: align, fuse, merge-lora, extract-lora."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steelyard.budget.dry_run import CannotPlan, DryRun
from steelyard.edits.align.options import AlignOptions, FuseOptions
from steelyard.edits.merge.lora.extract import ExtractOptions
from steelyard.edits.merge.options import MergeLoraOptions, WritingOptions
from steelyard.errors import UserError
from steelyard.jobs import open_model
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    from steelyard.edits.align.fuse import FuseResult
    from steelyard.edits.align.job import AlignResult
    from steelyard.edits.merge.job import MergeResult
    from steelyard.edits.merge.lora.extract import Extracted

__all__ = ["AlignStepOptions", "ExtractStepOptions", "FuseStepOptions", "MergeLoraOptions"]


class AlignStepOptions(AlignOptions):
    """Options of the step `align`."""

    to: str = Field("", description="the model whose order counts")


class FuseStepOptions(FuseOptions):
    """Options of the step `fuse`."""

    second: str = Field("", description="the other model")


class ExtractStepOptions(ExtractOptions):
    """Options of the step `extract-lora`."""

    base: str = Field("", description="the model that the adapter is for")


def align_step(
    model: str | Path,
    out: str | Path,
    options: AlignStepOptions,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> AlignResult:
    """Write a model with its units in the order of another's; see `align_folder`.

    Raises:
        UserError: as `align_folder`, or if the step names no other model.
    """
    from steelyard.edits.align.job import align_folder

    named = AlignOptions(**options.model_dump(exclude={"to"}))
    return align_folder(model, _given("align", "to", options.to), out, named, resume=resume, progress=progress)


def fuse_step(
    model: str | Path,
    out: str | Path,
    options: FuseStepOptions,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> FuseResult:
    """Write one model of this and another; see `fuse_folder`.

    Raises:
        UserError: as `fuse_folder`, or if the step names no other model.
    """
    from steelyard.edits.align.fuse import fuse_folder

    named = FuseOptions(**options.model_dump(exclude={"second"}))
    second = _given("fuse", "second", options.second)
    return fuse_folder(model, second, out, named, resume=resume, progress=progress)


def merge_lora_step(
    model: str | Path,
    out: str | Path,
    options: MergeLoraOptions,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> MergeResult:
    """Write a model with an adapter in its weights; see `merge_adapter`.

    Raises:
        UserError: as `merge_adapter`, or if the step names no adapter.
    """
    from steelyard.budget.merge_lora import merge_adapter

    named = WritingOptions(**options.model_dump(exclude={"adapter"}, exclude_unset=True))
    adapter = _given("merge-lora", "adapter", options.adapter)
    return merge_adapter(model, adapter, out, named, resume=resume, progress=progress)


def extract_lora_step(
    model: str | Path,
    out: str | Path,
    options: ExtractStepOptions,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> Extracted:
    """Write what a model has that its base has not as an adapter; see `extract_lora`. Only a last step can be this.

    Raises:
        UserError: as `extract_lora`, or if the step names no base.
    """
    from steelyard.edits.merge.lora.extract import extract_lora

    named = ExtractOptions(**options.model_dump(exclude={"base"}))
    base = _given("extract-lora", "base", options.base)
    return extract_lora(model, base, out, named, resume=resume, progress=progress)


def plan_align(
    model: str | Path, options: AlignStepOptions, progress: Progress = SILENT, before: DryRun | None = None
) -> DryRun:
    """Plan a step `align`: the tensors that there are, in another order.

    Raises:
        UserError: if the step names no other model.
        CannotPlan: after a step that leaves another model than the recipe's.
    """
    if before is not None and before.leaves != "model":
        raise CannotPlan("it reorders a model that is not there yet")
    with open_model(model) as opened, open_model(_given("align", "to", options.to)) as other:
        nbytes = opened.checkpoint.weight_bytes
        return DryRun(
            model=str(model),
            budget=nbytes,
            asked=f"the order of {other.location}",
            format="as it is",
            smallest=nbytes,
            nbytes=nbytes,
            tensors={},
            resources="one matrix of both models at a time",
            notes=(),
            leaves="model",
        )


def plan_fuse(
    model: str | Path, options: FuseStepOptions, progress: Progress = SILENT, before: DryRun | None = None
) -> DryRun:
    """Say that a fusion has no plan: what is joined follows from the weights.

    Raises:
        UserError: if the step names no other model.
        CannotPlan: always.
    """
    _given("fuse", "second", options.second)
    raise CannotPlan("which units are joined follows from the weights")


def plan_merge_lora(
    model: str | Path, options: MergeLoraOptions, progress: Progress = SILENT, before: DryRun | None = None
) -> DryRun:
    """Plan a step `merge-lora` from headers.

    Raises:
        UserError: if the step names no adapter.
        CannotPlan: after a step that leaves another model than the recipe's, or with a format or size.
    """
    from steelyard.budget.merge_lora import plan_adapter

    adapter = _given("merge-lora", "adapter", options.adapter)
    if before is not None and before.leaves != "model":
        raise CannotPlan("it changes a model that is not there yet")
    if options.shaped:
        raise CannotPlan("the merged weights tell how they are stored")
    return plan_adapter(model, adapter, WritingOptions(**options.model_dump(exclude={"adapter"})))


def plan_extract_lora(
    model: str | Path, options: ExtractStepOptions, progress: Progress = SILENT, before: DryRun | None = None
) -> DryRun:
    """Say that an extraction has no plan: which matrices differ follows from the weights.

    Raises:
        UserError: if the step names no base.
        CannotPlan: always.
    """
    _given("extract-lora", "base", options.base)
    raise CannotPlan("which matrices differ follows from the weights")


def _given(step: str, name: str, value: str) -> str:
    if not value.strip():
        raise UserError(
            f"the step {step} needs `{name}`, the location of a model or adapter; add it to its options"
        )
    return value
