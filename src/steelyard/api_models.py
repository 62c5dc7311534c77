"""Python calls about several models: what `align`, `fuse`, `barrier`, `merge-lora`, … and `experts` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress
from steelyard.validation import validate

if TYPE_CHECKING:
    from steelyard.edits.align.barrier import Barrier
    from steelyard.edits.align.fuse import FuseResult
    from steelyard.edits.align.job import AlignResult
    from steelyard.edits.merge.job import MergeResult
    from steelyard.edits.merge.lora.extract import Extracted
    from steelyard.edits.merge.search.job import Found
    from steelyard.edits.merge.soups import Soup
    from steelyard.measure.evaluate import EvaluationOptions

_WINDOWS = 32  # of each task, as the verbs have it


def align(
    model: str | Path,
    *,
    to: str | Path,
    out: str | Path,
    resume: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> AlignResult:
    """Write a model with its units in the order of another's; options as `AlignOptions` has them."""
    from steelyard.edits.align.job import align_folder
    from steelyard.edits.align.options import AlignOptions

    return align_folder(model, to, out, validate(AlignOptions, options), resume=resume, progress=progress)


def fuse(
    first: str | Path,
    second: str | Path,
    *,
    out: str | Path,
    resume: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> FuseResult:
    """Write one model of two that were trained apart; options as `FuseOptions` has them."""
    from steelyard.edits.align.fuse import fuse_folder
    from steelyard.edits.align.options import FuseOptions

    return fuse_folder(first, second, out, validate(FuseOptions, options), resume=resume, progress=progress)


def barrier(*models: str | Path, progress: Progress = SILENT, **options: Any) -> Barrier:
    """Return the loss along a path through models, ends first and last; options as `BarrierOptions` has them."""
    from steelyard.edits.align.barrier import BarrierOptions, measure_barrier

    return measure_barrier(models, validate(BarrierOptions, options), progress)


def merge_lora(
    base: str | Path,
    adapter: str | Path,
    *,
    out: str | Path,
    resume: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> MergeResult:
    """Write a model with a LoRA adapter in its weights, streamed; options as `WritingOptions` has them."""
    from steelyard.budget.merge_lora import merge_adapter
    from steelyard.edits.merge.options import WritingOptions

    return merge_adapter(base, adapter, out, validate(WritingOptions, options), resume=resume, progress=progress)


def extract_lora(
    model: str | Path,
    *,
    base: str | Path,
    out: str | Path,
    resume: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> Extracted:
    """Write the difference of two models as an adapter that peft loads; options as `ExtractOptions` has them."""
    from steelyard.edits.merge.lora.extract import ExtractOptions
    from steelyard.edits.merge.lora.extract import extract_lora as extract

    return extract(model, base, out, validate(ExtractOptions, options), resume=resume, progress=progress)


def search_merge(
    recipe: str | Path,
    search: Mapping[str, str],
    data: Mapping[str, str | Path],
    *,
    sequences: int = _WINDOWS,
    sequence_length: int | None = None,
    journal: str | Path | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> Found:
    """Search the numbers of a recipe for the least loss; `merge` takes the `recipe` of what is returned.

    Args:
        recipe: a YAML file with one recipe.
        search: by name of a parameter "LOW:HIGH", or "LOW:HIGH:ANCHORS" for a gradient over the layers.
        data: text by task; one half decides, the other half is measured on.
        sequences: windows of each task.
        sequence_length: tokens in a window.
        journal: file that keeps every measurement.
        resume: go on from the journal.
        progress: advanced by measurements.
        options: the fields of `SearchOptions`.

    Raises:
        UserError: for a recipe that cannot be carried out, or text that cannot be measured on.
    """
    from steelyard.edits.merge.objective import read_texts
    from steelyard.edits.merge.search.job import search_recipe
    from steelyard.edits.merge.search.run import SearchOptions

    found, _ = search_recipe(
        Path(recipe),
        [f"{name}={limits}" for name, limits in search.items()],
        read_texts(_assigned(data)),
        validate(SearchOptions, options),
        _evaluation(sequences, sequence_length),
        journal=None if journal is None else Path(journal),
        resume=resume,
        progress=progress,
    )
    return found


def learn_merge(
    base: str,
    experts: Sequence[str],
    data: Mapping[str, str | Path],
    *,
    sequences: int = _WINDOWS,
    sequence_length: int | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> Found:
    """Learn how much of every tensor of the experts to add to their base (aTLAS); options as `AtlasOptions`.

    Arguments and errors are those of `search_merge`.
    """
    from steelyard.edits.merge.atlas import AtlasOptions
    from steelyard.edits.merge.objective import read_texts
    from steelyard.edits.merge.search.job import learn_coefficients

    return learn_coefficients(
        base,
        experts,
        read_texts(_assigned(data)),
        validate(AtlasOptions, options),
        _evaluation(sequences, sequence_length),
        progress,
    )


def soup(
    models: Sequence[str],
    *,
    kind: Literal["uniform", "greedy", "run"] = "uniform",
    data: Mapping[str, str | Path] | None = None,
    decay: float | None = None,
    sequences: int = _WINDOWS,
    sequence_length: int | None = None,
) -> Soup:
    """Return an average of models; `merge` takes its `recipe()`.

    Args:
        models: locations; for "run" the checkpoints of a run in order.
        kind: all alike, from the best to the worst those that help, or along a run.
        data: text by task, for "greedy".
        decay: for "run", what each checkpoint leaves of those before it; all alike if absent.
        sequences: windows of each task.
        sequence_length: tokens in a window.

    Raises:
        UserError: for models that do not fit each other, or data and kind that do not.
    """
    from dataclasses import replace

    from steelyard.edits.merge.soups import along_run, uniform

    if kind not in ("uniform", "greedy", "run"):
        raise UserError(f"no kind of soup {kind!r}; available: uniform, greedy, run")
    if (kind == "greedy") != bool(data):
        raise UserError("a greedy soup needs data, the others measure nothing")
    if decay is not None and kind != "run":
        raise UserError("decay is for the kind run")
    if kind == "run":
        return along_run(models, decay)
    if kind == "uniform" or data is None:
        return uniform(models)
    from steelyard.edits.merge.objective import read_texts
    from steelyard.edits.merge.search.job import make_soup

    found, between = make_soup(models, read_texts(_assigned(data)), _evaluation(sequences, sequence_length))
    return replace(found, barriers=between)


def _assigned(data: Mapping[str, str | Path]) -> list[str]:
    return [f"{task}={path}" for task, path in data.items()]


def _evaluation(sequences: int, sequence_length: int | None) -> EvaluationOptions:
    from steelyard.measure.evaluate import EvaluationOptions

    return validate(EvaluationOptions, {"sequences": sequences, "sequence_length": sequence_length})
