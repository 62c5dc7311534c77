"""The `nest` job: one file that holds every size of a model, and the order in which it grows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from steelyard.budget.dry_run import DryRun, check_plain
from steelyard.budget.execute import matrix_of
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.learning import NO_DATA, Learned, NothingHeldOut, learn, texts_of
from steelyard.budget.nest_ranking import measured_order
from steelyard.budget.plan import Plan, TensorPlan, plan_files
from steelyard.budget.produce import produce
from steelyard.budget.shed import shed_folder
from steelyard.budget.workspace import Workspace
from steelyard.codecs import AnyPrecisionCodec, Codec, NestedCodec, SignChainCodec, relative_error
from steelyard.formats.native import NativeFormat
from steelyard.formats.native.growth import Growth, growth_order
from steelyard.jobs import OpenModel, open_model
from steelyard.progress import SILENT, Progress
from steelyard.spec import ModelSpec
from steelyard.units import format_size, parse_size
from steelyard.weights import check_output

_ALL = 1 << 62
"""More bytes than there are."""


class NestOptions(NothingHeldOut, BaseModel):
    """A file of every size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    codec: Literal["any-precision", "sign-chain"] = Field(
        "any-precision", description="nested codes of every width, or chains of signs times low-rank magnitudes"
    )
    bits: int = Field(8, ge=1, le=8, description="any-precision: bits of the longest codes")
    seed_bits: int = Field(3, ge=1, le=8, description="any-precision: bits of the shortest")
    rows: int = Field(16, ge=0, description="any-precision: rows that share tables; 1 as in the paper, 0 for all")
    blocks: int = Field(8, ge=1, description="sign-chain: blocks of each matrix")
    rank: int = Field(4, ge=1, description="sign-chain: rank of a block's magnitudes; 16 in the paper")
    embeddings: bool = Field(True, description="encode embedding tables too")
    ranking: Literal["predicted", "measured"] = Field(
        "predicted", description="the order of growth: by predicted damage, or by running the model at every step"
    )
    ranking_sequences: int = Field(8, ge=1, description="calibration sequences to run at every step")
    data: str | None = Field(None, description="calibration text, as for fit, or none")
    calibration: str | None = Field(None, description="file to keep the calibration in, and to take it from")
    sequences: int = Field(128, ge=1, description="calibration sequences")
    sequence_length: int = Field(256, ge=8, description="tokens per calibration sequence")
    seed: int = Field(0, description="seed of everything drawn")
    max_shard_size: str | int = Field("5GB", description="begin a new file above this size")

    @model_validator(mode="after")
    def _consistent(self) -> NestOptions:
        if self.codec == "any-precision" and self.seed_bits > self.bits:
            raise ValueError(f"seed_bits is at most bits; not {self.seed_bits} of {self.bits}")
        if self.ranking == "measured" and self.data == NO_DATA:
            raise ValueError("measuring needs text: leave out data none, or rank by predicted damage")
        return self

    def codec_for(self, shape: tuple[int, int]) -> NestedCodec:
        """Return the codec of a matrix; the rank is at most its smaller side."""
        if self.codec == "any-precision":
            return AnyPrecisionCodec(self.bits, self.seed_bits, self.rows or None)
        return SignChainCodec(self.blocks, min(self.rank, *shape))


@dataclass(frozen=True)
class NestResult:
    """What `nest` made.

    Attributes:
        out: the folder.
        source_bytes: bytes of the model's weight files.
        nbytes: bytes of the result's weight files.
        smallest: bytes of weights in memory at the lowest levels.
        largest: at the highest.
        sizes: how many different sizes lie between both, ends included.
        kept: matrices left as they were.
        calibrated_on: in words, the texts; "" if none.
    """

    out: Path
    source_bytes: int
    nbytes: int
    smallest: int
    largest: int
    sizes: int
    kept: tuple[str, ...]
    calibrated_on: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        values = {key: value for key, value in vars(self).items() if key not in ("out", "kept", "nbytes")}
        return {"out": str(self.out), "bytes": self.nbytes, **values, "kept": list(self.kept)}


@dataclass(frozen=True)
class Curve:
    """What a tensor costs and loses at each of its levels, lowest first.

    Attributes:
        sizes: bytes.
        damages: predicted damage.
        errors: relative error, Frobenius.
    """

    sizes: tuple[int, ...]
    damages: tuple[float, ...]
    errors: tuple[float, ...]


class _RankedFormat(NativeFormat):
    """The native format, which looks at every level of what it packs and writes the order of growth."""

    def __init__(self, opened: OpenModel, knowledge: KnowledgeBase) -> None:
        self._opened, self._knowledge = opened, knowledge
        self.curves: dict[str, Curve] = {}

    def pack(
        self, spec: ModelSpec, name: str, codec: Codec, parts: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the row of bytes, after a look at its beginnings."""
        if isinstance(codec, NestedCodec):
            matrix = matrix_of(self._opened.checkpoint, spec, name)
            self.curves[name] = curve_of(codec, parts, matrix, self._knowledge.of(name).damage)
        return super().pack(spec, name, codec, parts)

    def config(self, spec: ModelSpec, config: Mapping[str, Any], codecs: Mapping[str, Codec]) -> dict[str, Any]:
        """Return the config, with the order of growth."""
        changed = super().config(spec, config, codecs)
        names = sorted(self.curves)
        order = growth_order([(self.curves[name].sizes, self.curves[name].damages) for name in names])
        if "quantization_config" in changed:
            changed["quantization_config"]["growth"] = {"tensors": names, "order": order}
        return changed


def curve_of(codec: NestedCodec, parts: Mapping[str, np.ndarray], matrix: np.ndarray, damage: Any) -> Curve:
    """Return what a matrix costs and loses at each level.

    Args:
        codec: at its highest level.
        parts: of that.
        matrix: [out, in], the original.
        damage: what reading a decoded matrix for it costs.
    """
    shape = (int(matrix.shape[0]), int(matrix.shape[1]))
    wide = np.ascontiguousarray(matrix, np.float32)
    sizes, damages, errors = [], [], []
    for level in codec.levels:
        first = level.first_parts(parts, shape)
        sizes.append(level.nbytes(shape))
        damages.append(float(damage(wide, level.decode(first, shape))))
        errors.append(relative_error(level, matrix, first))
    return Curve(tuple(sizes), tuple(damages), tuple(errors))


def plan_nest(opened: OpenModel, options: NestOptions) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan, and the matrices it leaves as they are."""
    spec, format = opened.spec, NativeFormat()
    matrices = set(spec.quantizable())
    tensors: dict[str, TensorPlan] = {}
    kept = []
    for name, tensor in spec.tensors.items():
        chosen: NestedCodec | None = None
        if name in matrices and (options.embeddings or tensor.kind != "embedding"):
            codec = options.codec_for(tensor.matrix_shape)
            chosen = codec if format.supports(spec, name, codec) else None
        if name in matrices and chosen is None:
            kept.append(name)
        tensors[name] = TensorPlan(name, chosen, "" if chosen is None else options.codec)
    request = {"verb": "nest", **options.model_dump()}
    return Plan(format.name, tensors, parse_size(options.max_shard_size), request), tuple(kept)


def nest_folder(
    model: str | Path,
    out: str | Path,
    options: NestOptions | None = None,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> NestResult:
    """Write a model as nested tensors, with the order in which more bytes are best spent.

    Raises:
        UserError: for a damaged model, a weight that is not finite, an existing output, data that cannot be used.
    """
    options = options or NestOptions()
    with open_model(model) as opened:
        path = check_output(out, opened.checkpoint.folder, resume)
        plan, kept = plan_nest(opened, options)
        with (
            Workspace(path, opened.identity(), options, resume) as work,
            learn(opened, options, work.folder, progress) as learned,
        ):
            made = _written(opened, plan, learned, options, path, work.folder, resume, progress)
        growth = Growth.of_folder(made)
        return NestResult(
            made,
            opened.checkpoint.weight_bytes,
            plan_files(plan, opened.spec, NativeFormat()).total_bytes,
            growth.smallest,
            growth.largest,
            len(growth.order) + 1,
            kept,
            "" if options.data == NO_DATA else learned.description,
        )


def _written(
    opened: OpenModel,
    plan: Plan,
    learned: Learned,
    options: NestOptions,
    out: Path,
    work: Path,
    resume: bool,
    progress: Progress,
) -> Path:
    """Write the folder, ranked by prediction; where that is wanted write it again as measured."""
    knowledge = KnowledgeBase(learned.calibration, opened.spec.ties)
    format = _RankedFormat(opened, knowledge)
    predicted = work / "predicted" if options.ranking == "measured" else out
    if predicted == out or not predicted.exists():
        produce(
            plan,
            opened,
            format,
            knowledge,
            predicted,
            resume=resume,
            describe=lambda staged: {"levels": {name: vars(curve) for name, curve in format.curves.items()}},
            progress=progress,
        )
    if predicted != out:
        assert learned.model is not None
        texts = texts_of(learned.model, options, progress).calibration
        order = measured_order(predicted, learned.model, texts, options.ranking_sequences, progress)
        shed_folder(predicted, out, size=_ALL, order=order, resume=resume, progress=progress)
        shutil.rmtree(predicted)
    return out


def dry_run(
    model: str | Path, options: NestOptions, progress: Progress = SILENT, before: DryRun | None = None
) -> DryRun:
    """Plan without reading a weight.

    Raises:
        UserError: for a damaged model.
        CannotPlan: after a step whose output it cannot know.
    """
    check_plain(before)
    with open_model(model) as opened:
        plan, kept = plan_nest(opened, options)
        spec = opened.spec
        size = plan_files(plan, spec, NativeFormat()).total_bytes
        lowest = {
            name: replace(item, codec=item.codec.levels[0]) if isinstance(item.codec, NestedCodec) else item
            for name, item in plan.tensors.items()
        }
        smallest = plan_files(replace(plan, tensors=lowest), spec, NativeFormat()).total_bytes
        widest = max(tensor.elements for tensor in spec.tensors.values())
        return DryRun(
            model=str(model),
            budget=size,
            asked=f"every size of {options.codec}",
            format=plan.format,
            smallest=smallest,
            nbytes=size,
            tensors=plan.labels(),
            resources=f"about {format_size(16 * widest)} of memory beside the files",
            notes=(f"left as they are: {', '.join(kept)}",) if kept else (),
        )
