"""What a conversion does with each tensor: decided before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from steelyard.codecs import BlockwiseCodec, Codec, DenseCodec, Float8Codec, IntegerCodec
from steelyard.codecs.gguf import GgufCodec
from steelyard.errors import UserError
from steelyard.formats.base import Format, load_dtype, scale_dtype
from steelyard.formats.equivalent import proposals, repack
from steelyard.formats.gguf import GgufFormat
from steelyard.formats.gguf.mixes import alike, mixed
from steelyard.formats.logical import GgufModel, LogicalCheckpoint
from steelyard.spec import ModelSpec
from steelyard.weights.names import natural_key

_GROUPS = (128, 64, 32, 16)
_TYPE_OF_BITS = {1: "Q2_K", 2: "Q2_K", 3: "Q3_K", 4: "Q4_K", 5: "Q5_K", 6: "Q6_K", 7: "Q8_0", 8: "Q8_0"}


@dataclass(frozen=True)
class Step:
    """How one tensor is written.

    Attributes:
        codec: what it becomes; None leaves the stored bytes as they are.
        exact: whether it reads as the same numbers.
    """

    codec: Codec | None
    exact: bool


def spec_of(source: LogicalCheckpoint) -> ModelSpec:
    """Return what the logical model is. Encoded tensors count as numbers of the type the model loads in."""
    named = str(source.config.get("dtype", source.config.get("torch_dtype"))).removeprefix("torch.")
    loaded = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(named, "BF16")
    shapes = {
        name: (source.shape(name), source.checkpoint.info(name).dtype if source.codec(name) is None else loaded)
        for name in source.names
    }
    spec = ModelSpec.build(source.config, shapes)
    untied = [alias for alias in spec.stored_aliases if not _same(source, alias, spec.ties[alias])]
    return ModelSpec.build(source.config, shapes, untied) if untied else spec


def _same(source: LogicalCheckpoint, first: str, second: str) -> bool:
    return np.array_equal(source.tensor(first), source.tensor(second))


def plan_steps(source: LogicalCheckpoint, spec: ModelSpec, target: Format, requantize: bool) -> dict[str, Step]:
    """Decide for every tensor of a folder of safetensors, by shapes and codecs alone.

    Raises:
        UserError: naming a tensor that the format cannot hold exactly, unless `requantize`.
    """
    matrices = set(spec.quantizable())
    whole = requantize and not any(source.codec(name) for name in spec.tensors)
    steps: dict[str, Step] = {}
    refused: dict[str, Codec | None] = {}
    for name in spec.tensors:
        codec = source.codec(name)
        shared = name in spec.ties.values() and not target.packs_tied
        same = None if codec is None or shared else _same_numbers(source, spec, target, name, codec)
        if same is not None:
            steps[name] = Step(same, True)
        elif codec is None and not (whole and name in matrices):
            steps[name] = Step(None, True)
        elif target.name == "dense":
            steps[name] = Step(DenseCodec(load_dtype(spec)), False)
        else:
            refused[name] = codec
            steps[name] = Step(None, False)
    if refused and not requantize:
        raise UserError(_refusal(target.name, refused, "--format steelyard keeps them"))
    shared_tables = set() if target.packs_tied else set(spec.ties.values())
    anew = {name: codec for name, codec in refused.items() if name not in shared_tables}
    new = _new_codec(spec, target, anew) if anew else None
    for name, codec in refused.items():
        if new is not None and name in anew and target.supports(spec, name, new):
            steps[name] = Step(new, False)
        else:
            steps[name] = Step(DenseCodec(load_dtype(spec)) if codec is not None else None, codec is None)
    if not any(step.codec is not None for step in steps.values()) and not isinstance(source, GgufModel):
        raise UserError(
            f"{source.checkpoint.location} holds no encoded tensor; steelyard quantize encodes it, or --requantize"
        )
    return steps


def plan_gguf(
    source: LogicalCheckpoint,
    spec: ModelSpec,
    target: GgufFormat,
    requantize: bool,
    kind: str | None,
    mix: str | None,
) -> dict[str, Step]:
    """Decide for every tensor of a GGUF file.

    Args:
        source: the model.
        spec: what it is.
        target: the format, bound to it.
        requantize: round anew what no type holds as it is, to the type of as many bits.
        kind: a type that every matrix becomes.
        mix: one of llama.cpp's mixes that the matrices become instead.

    Raises:
        UserError: naming a tensor that no type holds exactly, unless one of the three asks for it.
    """
    wanted = alike(spec, kind) if kind else mixed(spec, mix) if mix else {}
    steps: dict[str, Step] = {}
    refused: dict[str, Codec | None] = {}
    for name in spec.tensors:
        kept, codec = target.kept(spec, name), source.codec(name)
        if kept is None:
            continue
        new = wanted.get(name)
        if new is not None:
            steps[name] = Step(new, new == codec)
        elif codec is None:
            steps[name] = Step(kept, True)
        elif (same := _same_numbers(source, spec, target, name, codec)) is not None:
            steps[name] = Step(same, True)
        else:
            refused[name] = codec
    if refused and not requantize:
        raise UserError(_refusal("gguf", refused, "so do --type and --mix"))
    for name, codec in refused.items():
        bits = codec.bits if isinstance(codec, IntegerCodec | BlockwiseCodec) else 4
        new = alike(spec, _TYPE_OF_BITS[bits]).get(name)
        steps[name] = Step(new or target.kept(spec, name), False)
    return {name: steps[name] for name in sorted(steps, key=natural_key)}


def check_plain(spec: ModelSpec, target: Format) -> None:
    """Check, by shapes alone, that a plain model has matrices that a format can hold as codes.

    Args:
        spec: the model.
        target: not a container, nor plain itself.

    Raises:
        UserError: naming the first matrix, if there is none.
    """
    matrices = [name for name in spec.quantizable() if spec.tensors[name].kind == "linear"]
    if not matrices or _new_codec(spec, target, dict.fromkeys(matrices)) is None:
        name = next(iter(matrices), "")
        shape = f", such as {name} {list(spec.tensors[name].matrix_shape)}" if name else ""
        raise UserError(
            f"{target.name} can hold none of the {len(matrices)} matrices of this model{shape}; choose another"
        )


def _refusal(target: str, refused: Mapping[str, Codec | None], otherwise: str) -> str:
    name, codec = next(iter(refused.items()))
    return (
        f"{target} cannot hold {len(refused)} of the encoded tensors as they are, such as {name} "
        f"({codec.label if codec else ''}); --requantize rounds them anew, {otherwise}"
    )


def _same_numbers(
    source: LogicalCheckpoint, spec: ModelSpec, target: Format, name: str, codec: Codec
) -> Codec | None:
    """Return the codec itself, or one that holds the same numbers; None if the format has neither."""
    if target.supports(spec, name, codec):
        return codec
    shape = spec.tensors[name].matrix_shape
    for other in proposals(codec, shape):
        if target.supports(spec, name, other) and repack(codec, source.parts(name), shape, other) is not None:
            return other
    return None


def _new_codec(spec: ModelSpec, target: Format, codecs: Mapping[str, Codec | None]) -> Codec | None:
    """Return the first codec that the format supports for all of these tensors, else for any of them.

    Integers keep their bits where the format has them; formats without integers get their usual codec.
    """
    widths = [_bits(codec) for codec in codecs.values()]
    known = [bits for bits in widths if bits]
    bits, scale = max(set(known), key=known.count) if known else 4, scale_dtype(spec)
    proposed: list[Codec] = [IntegerCodec(width, size, False, scale) for width in (bits, 4, 8) for size in _GROUPS]
    proposed += [BlockwiseCodec("nf", 4, 64, double=True)]
    proposed += [Float8Codec("F8_E4M3", side, side) for side in _GROUPS]
    counts = [sum(target.supports(spec, name, proposal) for name in codecs) for proposal in proposed]
    return proposed[counts.index(max(counts))] if max(counts, default=0) else None


def _bits(codec: Codec | None) -> int:
    if isinstance(codec, IntegerCodec | BlockwiseCodec):
        return codec.bits
    if isinstance(codec, GgufCodec):
        return next((bits for bits, kind in _TYPE_OF_BITS.items() if kind == codec.kind and bits > 1), 4)
    return 0
