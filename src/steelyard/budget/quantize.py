"""The `quantize` job: one codec for every matrix. Streamed, unless the rounding asks for a calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from steelyard.budget.bias import BIAS_CORRECTION, correctable, weight_of
from steelyard.budget.coded import with_payloads
from steelyard.budget.dry_run import DryRun, check_plain
from steelyard.budget.encoding import methods_for, rounding_of
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.learning import NO_DATA, NothingHeldOut, learn
from steelyard.budget.plan import Plan, TensorPlan, plan_files
from steelyard.budget.policies import decisions
from steelyard.budget.predictions import made_by_predictions, planned
from steelyard.budget.produce import Produced, produce
from steelyard.budget.quantize_gguf import asked, check_options, plan_gguf
from steelyard.budget.workspace import Workspace
from steelyard.codecs import Codec, DenseCodec, EntropyCodec, IntegerCodec, LowRankCodec, SumCodec
from steelyard.codecs.naming import named
from steelyard.edits import registry
from steelyard.edits.quantize.pd_quant import NAME as PD_QUANT
from steelyard.edits.quantize.pd_quant import PdQuantOptions
from steelyard.errors import UserError
from steelyard.formats import Format
from steelyard.formats import get as get_format
from steelyard.formats.base import scale_dtype
from steelyard.formats.container import bound, shard_bytes
from steelyard.jobs import OpenModel, open_model
from steelyard.progress import SILENT, Progress
from steelyard.spec import ModelSpec
from steelyard.units import format_size
from steelyard.validation import assignments, validate
from steelyard.weights import check_output

_DATA_FREE = frozenset({"absmax", "hqq"})

# What these know of the inputs only helps; every other method is about them.
_CAN_DO_WITHOUT = _DATA_FREE | {"rtn"}

AUTO: Literal["auto"] = "auto"


class QuantizeOptions(NothingHeldOut, BaseModel):
    """One codec for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: int = Field(4, ge=1, le=8, description="bits of a code")
    group_size: int | None = Field(64, ge=16, le=256, description="columns under one scale")
    per_row: bool = Field(False, description="one scale a row instead of groups")
    symmetric: bool = Field(True, description="no zero points")
    codec: str | None = Field(
        None, description="instead of integers: nf4, mxfp4, fp8, ternary, codebook:..., as in docs/formats"
    )
    policy: tuple[str, ...] = Field(
        (), description="experts-int8, glm-int4, keep-first=N, keep-last=N, keep=ROLE, ROLE:CODEC"
    )
    rounding: str = Field(
        "absmax", description="absmax: the codec's own encoder, in one pass; others: steelyard methods"
    )
    settings: tuple[str, ...] = Field((), description="of pd-quant, such as steps=24 or shares=0.9:1.1")
    rank: int | None = Field(None, ge=1, description="add a low-rank correction, rounded by GPTQ in turn with it")
    format: Literal["auto", "compressed-tensors", "steelyard", "gguf"] = Field(
        AUTO, description="how the result is stored; auto: compressed-tensors if that has the codec, else steelyard"
    )
    type: str | None = Field(None, description="gguf: one type for every matrix, such as Q4_K")
    mix: str | None = Field(None, description="gguf: llama.cpp's own mix of types, such as Q4_K_M")
    embeddings: bool = Field(False, description="encode embedding tables too, where the format can")
    bias_correction: bool = Field(False, description="take back by biases what rounding does to mean outputs")
    data: str | None = Field(
        None,
        description="calibration text, as for fit, or none; calibrated methods choose texts if it is not given",
    )
    calibration: str | None = Field(None, description="file to keep the calibration in, and to take it from")
    sequences: int = Field(128, ge=1, description="calibration sequences")
    sequence_length: int = Field(256, ge=8, description="tokens per calibration sequence")
    seed: int = Field(0, description="seed of everything drawn")
    max_shard_size: str | int | None = Field(
        None, description="begin a new file above this size [5GB; gguf: one file whatever its size]"
    )

    @field_validator("rounding")
    @classmethod
    def _known(cls, rounding: str) -> str:
        """Refuse what is a method of no codec, so that the option itself is named; the rest needs the codec."""
        known = ("absmax", *registry.methods(), PD_QUANT)
        if rounding not in known:
            raise ValueError(f"there is no rounding {rounding!r}; available: {', '.join(known)}")
        return rounding

    @model_validator(mode="after")
    def _consistent(self) -> QuantizeOptions:
        check_options(self)
        if self.format == "gguf":
            return self
        if self.bias_correction and self.data == NO_DATA:
            raise ValueError("bias correction needs the mean input of every layer; give text with data")
        self._check_codec()
        if self.rank is not None and self.format not in ("steelyard", AUTO):
            raise ValueError(f"{self.format} has no place for a low-rank correction; rank needs format steelyard")
        if self.rank is not None and self.rounding not in ("gptq", "absmax"):
            raise ValueError(f"a low-rank correction is fitted to GPTQ; rank does not go with {self.rounding}")
        if self.rounding == PD_QUANT and (self.bias_correction or self.data == NO_DATA):
            raise ValueError("pd-quant needs text, and takes biases as they are: no bias correction with it")
        if self.settings and self.rounding != PD_QUANT:
            raise ValueError(f"settings are those of pd-quant; {self.rounding} has none here")
        try:
            self.predictions()
        except UserError as error:
            raise ValueError(str(error)) from None
        free = self._method() in _DATA_FREE and not self.bias_correction
        given = self.calibration or self.data not in (None, NO_DATA)
        if free and given:
            raise ValueError(f"{self.rounding} uses no data; leave out data and calibration, or round by gptq")
        return self

    def _check_codec(self) -> None:
        integers = ("bits", "group_size", "per_row", "symmetric", "rank")
        if self.codec is None:
            kind: Codec = self.encoding("BF16")
        else:
            given = [name for name in integers if name in self.model_fields_set]
            if given:
                raise ValueError(f"{given[0]} is for integers; write it into the codec, as in integer:bits=3")
            try:
                kind = self.encoding("BF16")
            except UserError as error:
                raise ValueError(str(error)) from None
        known = (*methods_for(kind), "absmax", *(("gptq",) if self.rank is not None else ()))
        known += (PD_QUANT,) if isinstance(kind, IntegerCodec) else ()
        if self.rounding not in known and not (self.rank is not None and self.rounding in registry.methods()):
            raise ValueError(f"{kind.label} is not rounded by {self.rounding!r}; available: {', '.join(known)}")

    def encoding(self, scale_dtype: str) -> Codec:
        """The codec these options name, with scales of a type."""
        if self.codec is not None:
            return named(self.codec, scale_dtype)
        group = None if self.per_row else self.group_size
        base = IntegerCodec(self.bits, group, self.symmetric, scale_dtype)
        return base if self.rank is None else SumCodec(base, LowRankCodec(self.rank, scale_dtype))

    def predictions(self) -> PdQuantOptions:
        """Return the settings of pd-quant.

        Raises:
            UserError: naming the setting and what is accepted.
        """
        return validate(PdQuantOptions, assignments(self.settings, PD_QUANT, PdQuantOptions), f"{PD_QUANT}: ")

    @property
    def calibrates(self) -> bool:
        """Whether the model is run on text before it is rounded."""
        if self.data == NO_DATA:
            return False
        asked = self.data is not None or self.calibration is not None
        return asked or self.bias_correction or self._method() not in _CAN_DO_WITHOUT

    def _method(self) -> str:
        if self.format == "gguf":
            return "absmax"
        if self.rounding == PD_QUANT:
            return PD_QUANT
        return rounding_of(self.encoding("BF16"), self.rounding)


@dataclass(frozen=True)
class QuantizeResult:
    """What `quantize` made.

    Attributes:
        out: the folder.
        source_bytes: bytes of the model's weight files.
        nbytes: bytes of the result's weight files.
        encoded: number of encoded tensors.
        kept: names of matrices left as they were, and why the format left them.
        calibrated_on: in words, the texts; "" where the rounding needed none.
    """

    out: Path
    source_bytes: int
    nbytes: int
    encoded: int
    kept: tuple[str, ...]
    calibrated_on: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "out": str(self.out),
            "source_bytes": self.source_bytes,
            "bytes": self.nbytes,
            "encoded": self.encoded,
            "kept": list(self.kept),
            "calibrated_on": self.calibrated_on,
        }


def plan_quantize(opened: OpenModel, options: QuantizeOptions) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan, and the matrices it leaves as they are."""
    if options.format == "gguf":
        return plan_gguf(opened, options)
    codec = options.encoding(scale_dtype(opened.spec))
    said = decisions(opened.spec, options.policy)
    format = _format_for(opened, options, {codec, *(d.codec for d in said.values() if d.codec is not None)})
    matrices = set(opened.spec.quantizable())
    tensors: dict[str, TensorPlan] = {}
    kept = []
    for name in opened.spec.tensors:
        chosen: Codec | None = None
        if name in said:
            chosen = said[name].codec
            if chosen is not None and not _takes(opened.spec, format, name, chosen):
                if said[name].strict:
                    raise UserError(
                        f"{format.name} cannot hold {name} as {chosen.label}, which {said[name].policy} asks for"
                    )
                chosen = None
        elif name in matrices:
            chosen = _codec_for(opened, format, name, codec, options.embeddings)
        if name in matrices and chosen is None:
            kept.append(name)
        tensors[name] = TensorPlan(name, chosen, rounding_of(chosen, options.rounding))
    if options.bias_correction:
        for name in correctable(opened.spec):
            if tensors[weight_of(name)].codec is not None:
                same = DenseCodec(opened.spec.tensors[name].dtype)
                tensors[name] = TensorPlan(name, same, BIAS_CORRECTION)
    request = {"verb": "quantize", **options.model_dump()}
    plan = Plan(format.name, tensors, shard_bytes(options.max_shard_size), request)
    return planned(plan) if options.rounding == PD_QUANT else plan, tuple(kept)


def _codec_for(opened: OpenModel, format: Format, name: str, codec: Codec, embeddings: bool) -> Codec | None:
    """Return the codec if the tensor can take it; a table that is also the head needs a format that shares it."""
    if opened.spec.tensors[name].kind == "embedding" and not embeddings:
        return None
    return codec if _takes(opened.spec, format, name, codec) else None


def _takes(spec: ModelSpec, format: Format, name: str, codec: Codec) -> bool:
    """Tell whether a format stores a tensor under a codec; a table that is also the head must be shared."""
    shared = spec.tensors[name].kind == "embedding" and name in spec.ties.values()
    return format.supports(spec, name, codec) and (format.packs_tied or not shared)


def _format_for(opened: OpenModel, options: QuantizeOptions, codecs: Iterable[Codec]) -> Format:
    """Return the format asked for; for `auto` compressed-tensors where it has every codec, else Steelyard's own."""
    if options.format != AUTO:
        return get_format(options.format)
    ecosystem, spec = get_format("compressed-tensors"), opened.spec
    linear = [name for name in spec.quantizable() if spec.tensors[name].kind == "linear"]
    tables = options.embeddings and not all(
        _takes(spec, ecosystem, name, codec)
        for codec in codecs
        for name in spec.quantizable()
        if spec.tensors[name].kind == "embedding"
    )
    known = all(any(ecosystem.supports(spec, name, codec) for name in linear) for codec in codecs)
    return ecosystem if known and not tables else get_format("steelyard")


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
        UserError: for a damaged model, a weight that is not finite, an existing output, data that cannot be used.
    """
    options = options or QuantizeOptions()
    with open_model(model) as opened:
        path = check_output(out, opened.checkpoint.folder, resume)
        plan, kept = plan_quantize(opened, options)
        with _knowledge(opened, options, path, resume, progress) as (knowledge, description):
            plan = with_payloads(plan, opened, knowledge, progress)
            parts = None
            if options.rounding == PD_QUANT:
                parts = made_by_predictions(opened, plan, knowledge, options, options.predictions(), progress)
            made: Produced = produce(
                plan, opened, _format(plan, opened), knowledge, path, resume=resume, progress=progress, made=parts
            )
        source_bytes = opened.checkpoint.weight_bytes
    return QuantizeResult(made.folder, source_bytes, made.layout.total_bytes, len(made.errors), kept, description)


def _format(plan: Plan, opened: OpenModel) -> Format:
    return bound(get_format(plan.format), opened.checkpoint, opened.spec)


def _asked(opened: OpenModel, options: QuantizeOptions) -> str:
    if options.format == "gguf":
        return asked(options)
    policies = f", but {', '.join(options.policy)}" if options.policy else ""
    return f"{options.encoding(scale_dtype(opened.spec)).label} for every matrix{policies}"


@contextmanager
def _knowledge(
    opened: OpenModel, options: QuantizeOptions, out: Path, resume: bool, progress: Progress
) -> Iterator[tuple[KnowledgeBase, str]]:
    """Yield what the rounding may know and, in words, from which texts; kept beside the output until it is made."""
    if not options.calibrates:
        yield KnowledgeBase(None), ""
        return
    with (
        Workspace(out, opened.identity(), options, resume) as work,
        learn(opened, options, work.folder, progress) as learned,
    ):
        yield KnowledgeBase(learned.calibration, opened.spec.ties), learned.description


def dry_run(
    model: str | Path, options: QuantizeOptions, progress: Progress = SILENT, before: DryRun | None = None
) -> DryRun:
    """Plan without reading a weight.

    Raises:
        UserError: for a damaged model.
        CannotPlan: after a step whose output it cannot know.
    """
    check_plain(before)
    with open_model(model) as opened:
        plan, _ = plan_quantize(opened, options)
        coded = any(isinstance(codec, EntropyCodec) for codec in plan.codecs().values())
        size = plan_files(plan, opened.spec, _format(plan, opened)).total_bytes
        widest = max(tensor.elements for tensor in opened.spec.tensors.values())
        return DryRun(
            model=str(model),
            budget=size,
            asked=_asked(opened, options),
            format=plan.format,
            smallest=size,
            nbytes=size,
            tensors=plan.labels(),
            resources=f"about {format_size(4 * widest)} of memory beside the files",
            notes=("entropy-coded integers are counted as if nothing could be saved",) if coded else (),
        )
