"""The `quantize` job: one codec for every matrix, streamed. No calibration unless the rounding asks for one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from steelyard.budget.candidates import AS_STORED
from steelyard.budget.dry_run import DryRun
from steelyard.budget.encoding import rounding_of
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.plan import Plan, TensorPlan, plan_files
from steelyard.budget.produce import Produced, produce
from steelyard.codecs import Codec, IntegerCodec
from steelyard.formats import Format
from steelyard.formats import get as get_format
from steelyard.formats.base import scale_dtype
from steelyard.jobs import OpenModel, open_model
from steelyard.progress import SILENT, Progress
from steelyard.units import format_size, parse_size
from steelyard.weights import check_output


class QuantizeOptions(BaseModel):
    """One codec for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: int = Field(4, ge=2, le=8, description="bits of a code")
    group_size: int | None = Field(64, ge=16, le=256, description="columns under one scale")
    per_row: bool = Field(False, description="one scale a row instead of groups")
    symmetric: bool = Field(True, description="no zero points")
    rounding: Literal["absmax", "rtn"] = Field(
        "absmax", description="absmax: scales from the extremes, in one pass; rtn: searched scales"
    )
    format: Literal["compressed-tensors", "steelyard"] = Field(
        "compressed-tensors", description="how the result is stored"
    )
    embeddings: bool = Field(False, description="encode embedding tables too, where the format can")
    max_shard_size: str | int = Field("5GB", description="begin a new file above this size")

    def codec(self, scale_dtype: str) -> IntegerCodec:
        """The codec these options name, with scales of a type."""
        group = None if self.per_row else self.group_size
        return IntegerCodec(self.bits, group, self.symmetric, scale_dtype)


@dataclass(frozen=True)
class QuantizeResult:
    """What `quantize` made.

    Attributes:
        out: the folder.
        source_bytes: bytes of the model's weight files.
        nbytes: bytes of the result's weight files.
        encoded: number of encoded tensors.
        kept: names of matrices left as they were, and why the format left them.
    """

    out: Path
    source_bytes: int
    nbytes: int
    encoded: int
    kept: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "out": str(self.out),
            "source_bytes": self.source_bytes,
            "bytes": self.nbytes,
            "encoded": self.encoded,
            "kept": list(self.kept),
        }


def plan_quantize(opened: OpenModel, options: QuantizeOptions) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan, and the matrices it leaves as they are."""
    format = get_format(options.format)
    codec = options.codec(scale_dtype(opened.spec))
    matrices = set(opened.spec.quantizable())
    tensors: dict[str, TensorPlan] = {}
    kept = []
    for name in opened.spec.tensors:
        chosen = _codec_for(opened, format, name, codec, options.embeddings) if name in matrices else None
        if name in matrices and chosen is None:
            kept.append(name)
        tensors[name] = TensorPlan(name, chosen, rounding_of(chosen, options.rounding))
    request = {"verb": "quantize", **options.model_dump()}
    return Plan(format.name, tensors, parse_size(options.max_shard_size), request), tuple(kept)


def _codec_for(opened: OpenModel, format: Format, name: str, codec: Codec, embeddings: bool) -> Codec | None:
    """Return the codec if the tensor can take it; a table that is also the head needs a format that shares it."""
    spec = opened.spec
    if spec.tensors[name].kind == "embedding":
        shared = name in spec.ties.values()
        if not embeddings or (shared and not format.packs_tied):
            return None
    return codec if format.supports(spec, name, codec) else None


def quantize_folder(
    model: str | Path,
    out: str | Path,
    options: QuantizeOptions | None = None,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> QuantizeResult:
    """Encode every matrix of a model with one codec.

    Raises:
        UserError: for a damaged model, a weight that is not finite, an existing output.
    """
    options = options or QuantizeOptions()
    with open_model(model) as opened:
        path = check_output(out, opened.checkpoint.folder, resume)
        plan, kept = plan_quantize(opened, options)
        made: Produced = produce(
            plan, opened, get_format(plan.format), KnowledgeBase(None), path, resume=resume, progress=progress
        )
        source_bytes = opened.checkpoint.weight_bytes
    return QuantizeResult(made.folder, source_bytes, made.layout.total_bytes, len(made.errors), kept)


def dry_run(model: str | Path, options: QuantizeOptions, progress: Progress = SILENT) -> DryRun:
    """Plan without reading a weight.

    Raises:
        UserError: for a damaged model.
    """
    with open_model(model) as opened:
        plan, _ = plan_quantize(opened, options)
        size = plan_files(plan, opened.spec, get_format(plan.format)).total_bytes
        labels = {n: AS_STORED if t.codec is None else t.codec.label for n, t in plan.tensors.items()}
        widest = max(tensor.elements for tensor in opened.spec.tensors.values())
        return DryRun(
            model=str(model),
            budget=size,
            asked=f"{options.codec(scale_dtype(opened.spec)).label} for every matrix",
            format=plan.format,
            smallest=size,
            nbytes=size,
            tensors=labels,
            resources=f"about {format_size(4 * widest)} of memory beside the files",
            notes=(),
        )
