"""The same jobs for Python: `import steelyard as sy; sy.fit("path", size="4MiB", out="…")`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    from steelyard.budget.fit import FitResult
    from steelyard.budget.nest import NestResult
    from steelyard.budget.prepare import PrepareResult
    from steelyard.budget.quantize import QuantizeResult
    from steelyard.budget.tune import TuneResult
    from steelyard.edits.merge.job import MergeResult
    from steelyard.edits.stitch.bridge import BridgeResult
    from steelyard.edits.stitch.stitch import StitchResult
    from steelyard.forecast.parametrize import Parametrization
    from steelyard.formats.convert import Converted
    from steelyard.formats.logical import LogicalCheckpoint
    from steelyard.spec import ModelSpec
    from steelyard.weigh.counts import Weighing


def fit(
    model: str | Path,
    *,
    out: str | Path,
    size: str | int | None = None,
    bits: float | None = None,
    ratio: float | None = None,
    memory: str | int | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> FitResult:
    """Return the best model that fits a budget, written to `out`.

    Args:
        model: a folder, an id in the local Hugging Face cache, an fsspec URL, or "reference".
        out: the folder to make.
        size: bytes of all weight files on disk, such as "4MiB".
        bits: bits per parameter, of everything stored.
        ratio: share of the model's bytes on disk.
        memory: bytes of weights and key-value cache together, with `context` and `batch`.
        resume: continue an interrupted run.
        progress: receives how far the work is.
        options: the other fields of `steelyard.budget.options.FitOptions`.

    Raises:
        UserError: naming what is wrong and the way out.
    """
    values = {"size": size, "bits": bits, "ratio": ratio, "memory": memory, **options}
    result: FitResult = _step("fit", model, out, values, resume, progress)
    return result


def quantize(
    model: str | Path, *, out: str | Path, resume: bool = False, progress: Progress = SILENT, **options: Any
) -> QuantizeResult:
    """Encode every matrix of a model with one codec, streamed; options as `QuantizeOptions` has them."""
    result: QuantizeResult = _step("quantize", model, out, options, resume, progress)
    return result


def prepare(
    model: str | Path, *, out: str | Path, resume: bool = False, progress: Progress = SILENT, **options: Any
) -> PrepareResult:
    """Write the same function in weights that are easier to round; options as `PrepareOptions` has them."""
    result: PrepareResult = _step("prepare", model, out, options, resume, progress)
    return result


def nest(
    model: str | Path, *, out: str | Path, resume: bool = False, progress: Progress = SILENT, **options: Any
) -> NestResult:
    """Write every size of a model as one file, to `load`, `grow` and `shed`; options as `NestOptions` has them."""
    result: NestResult = _step("nest", model, out, options, resume, progress)
    return result


def tune(
    model: str | Path, *, out: str | Path, resume: bool = False, progress: Progress = SILENT, **options: Any
) -> TuneResult:
    """Train the codes of a quantized folder towards its model; options as `TuneOptions` has them."""
    result: TuneResult = _step("tune", model, out, options, resume, progress)
    return result


def merge(
    recipe: str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    resume: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> MergeResult:
    """Merge models as a recipe in mergekit's dialect says.

    Args:
        recipe: a YAML file, or what would be in one as a mapping.
        out: the folder to make.
        resume: continue an interrupted run.
        progress: advanced by bytes.
        options: the fields of `steelyard.edits.merge.options.MergeOptions`, such as `seed`.

    Raises:
        UserError: with everything that is wrong, before a byte is written; or naming a value that is not finite.
    """
    from steelyard.budget.merge import merge_file
    from steelyard.edits.merge.options import MergeOptions
    from steelyard.validation import validate

    return merge_file(recipe, out, validate(MergeOptions, options), resume=resume, progress=progress)[-1]


def stitch(
    first: str | Path,
    second: str | Path,
    *,
    out: str | Path,
    resume: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> StitchResult:
    """Join two models by maps between their blocks; options as `edits.stitch.options.StitchOptions` has them."""
    from steelyard.budget.compose import stitch_models
    from steelyard.edits.stitch.options import StitchOptions
    from steelyard.validation import validate

    return stitch_models(first, second, out, validate(StitchOptions, options), resume=resume, progress=progress)


def bridge(
    anchor: str | Path,
    augment: str | Path,
    *,
    out: str | Path,
    resume: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> BridgeResult:
    """Let a model attend to another through trained bridges; options as `edits.stitch.options.BridgeOptions`."""
    from steelyard.budget.compose import bridge_models
    from steelyard.edits.stitch.options import BridgeOptions
    from steelyard.validation import validate

    return bridge_models(anchor, augment, out, validate(BridgeOptions, options), resume=resume, progress=progress)


def convert(
    model: str | Path,
    *,
    out: str | Path,
    format: str,
    requantize: bool = False,
    type: str | None = None,
    mix: str | None = None,
    max_shard_size: str | int | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> Converted:
    """Write a folder in another format: the same numbers, or new ones only where asked.

    Args:
        model: a folder, or a GGUF file.
        out: the folder to make.
        format: what to write: steelyard convert --help lists them.
        requantize: round anew what the format cannot hold as it is.
        type: for gguf, the type that every matrix becomes.
        mix: for gguf, the mix of llama.cpp's that the matrices become.
        max_shard_size: begin a new file above this size; 5 GB if absent, and for gguf one file.
        resume: continue an interrupted run.
        progress: advanced by tensors.
    """
    from steelyard.budget.convert import convert_model
    from steelyard.formats.container import shard_bytes

    return convert_model(
        model,
        out,
        format,
        requantize=requantize,
        type=type,
        mix=mix,
        max_shard_size=shard_bytes(max_shard_size),
        resume=resume,
        progress=progress,
    )


def measure(
    model: str | Path,
    against: str | Path | None = None,
    data: str | Path | Sequence[str | Path] | None = None,
    **options: Any,
) -> Any:
    """Return a model's measurement with intervals, compared with `against` where it is given."""
    from steelyard.budget.evaluation import measure_folder

    return measure_folder(model, against, data, **options)


def weigh(model: str | Path | Mapping[str, Any] | ModelSpec, dtype: str | None = None) -> Weighing:
    """Return what a model holds, from headers and config alone; shown as a picture in a notebook.

    Args:
        model: a folder, a .safetensors, .gguf or config .json file, an id in the local Hugging Face cache, an
            fsspec URL, "reference", a config, or a spec.
        dtype: element type that a model without weights is weighed in, such as "BF16"; by default its config's.

    Raises:
        UserError: for anything missing, damaged or contradictory.
    """
    from steelyard.jobs import resolve
    from steelyard.weigh.counts import weigh as count

    return count(resolve(model) if isinstance(model, str | Path) else model, dtype)


def spec(config: str | Path | Mapping[str, Any], dtype: str | None = None) -> ModelSpec:
    """Return the spec of the model that a config describes, without weights.

    Args:
        config: a config as a mapping (change it and call again to weigh another model), or whatever `weigh` takes.
        dtype: element type of its tensors, such as "BF16"; by default the config's.

    Raises:
        UserError: if no table describes the architecture, or the config gives an axis no usable length.
    """
    return weigh(config, dtype).spec


def parametrize(
    config: str | Path | Mapping[str, Any],
    base: str | Path | Mapping[str, Any] | None = None,
    rule: str = "mup",
    std: float | None = None,
) -> Parametrization:
    """Return how every tensor is initialised and trained so that hyperparameters of a smaller model hold.

    Args:
        config: the model: a config as a mapping, or whatever `weigh` takes.
        base: the model that hyperparameters were found on.
        rule: "standard", "mup", "depth-mup", "completep" or "u-mup".
        std: standard deviation of the base's matrices; by default its `initializer_range`.

    Raises:
        UserError: if the rule does not cover the model, or the base is another model.
    """
    from steelyard.forecast.parametrize import make
    from steelyard.spec import ModelSpec

    # Names as transformers has them, whatever files of the model call their tensors.
    smaller = None if base is None else ModelSpec.from_config(spec(base).config)
    return make(ModelSpec.from_config(spec(config).config), smaller, rule, std)


def open(model: str | Path) -> LogicalCheckpoint:
    """Open any folder Steelyard reads as its logical float tensors."""
    from steelyard.formats.logical import LogicalCheckpoint
    from steelyard.jobs import resolve

    return LogicalCheckpoint.open(resolve(model))


def _step(
    name: str, model: str | Path, out: str | Path, options: Mapping[str, Any], resume: bool, progress: Progress
) -> Any:
    """Carry out one step of a recipe."""
    from steelyard.recipes import steps
    from steelyard.validation import validate

    kind = steps.get(name)
    return kind(model, out, validate(kind.options(), options), resume=resume, progress=progress)
