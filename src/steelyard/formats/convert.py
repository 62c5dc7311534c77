"""From any readable folder to another format, tensor by tensor: the same numbers, or only where asked new ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from steelyard.codecs import BlockwiseCodec, Codec, DenseCodec, Float8Codec, IntegerCodec
from steelyard.errors import UserError, VerificationError
from steelyard.formats import FORMATS
from steelyard.formats.base import Format, is_plain, load_dtype, scale_dtype
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.formats.targets import module_name
from steelyard.formats.writing import WRITERS
from steelyard.progress import SILENT, Progress
from steelyard.spec import ModelSpec
from steelyard.weights import DTYPES, FolderWriter, StoredTensor, bytes_hash, plan_layout

_OWN_FILES = ("config.json", "steelyard.json", "report.html")
_GROUPS = (128, 64, 32, 16)
_NOT_SAFETENSORS = ("gguf",)


@dataclass(frozen=True)
class Converted:
    """What a conversion made.

    Attributes:
        out: the folder.
        format: its format.
        source_bytes: of the weight files it was made from.
        nbytes: of its weight files.
        exact: encoded tensors that read as the same numbers.
        requantized: tensors that were rounded anew, and by what relative error (Frobenius).
        plain: encoded tensors that became plain numbers of the model's type.
    """

    out: Path
    format: str
    source_bytes: int
    nbytes: int
    exact: tuple[str, ...]
    requantized: Mapping[str, float]
    plain: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "out": str(self.out), "exact": list(self.exact), "plain": list(self.plain)}


@dataclass(frozen=True)
class _Step:
    """How one tensor is written: as it is (codec None), by its own parts (exact), or encoded anew."""

    codec: Codec | None
    exact: bool


def format_names() -> tuple[str, ...]:
    """Return the formats that folders can be converted to."""
    return tuple(name for name in (*FORMATS, *WRITERS) if name not in _NOT_SAFETENSORS)


def convert_folder(
    model: str | Path,
    out: str | Path,
    format: str,
    *,
    requantize: bool = False,
    max_shard_size: int = 5_000_000_000,
    resume: bool = False,
    progress: Progress = SILENT,
) -> Converted:
    """Write a folder's tensors in another format.

    Args:
        model: any folder that `LogicalCheckpoint` reads.
        out: the folder to make.
        format: one of `format_names()`.
        requantize: round anew what the format cannot hold as it is; a plain model is then encoded whole.
        max_shard_size: bytes of tensors in a file.
        resume: continue an interrupted run.
        progress: advanced by tensors.

    Raises:
        UserError: naming a tensor that the format cannot hold exactly, unless `requantize`.
        VerificationError: if what was written does not read as what was to be written.
    """
    target = _target(format)
    with LogicalCheckpoint.open(model) as source:
        spec, config = _spec(source), source.config
        steps = _plan(source, spec, target, requantize)
        stored = {name: _stored(source, spec, target, name, step) for name, step in steps.items()}
        layout = plan_layout([tensor for group in stored.values() for tensor in group], max_shard_size)
        codecs = {name: step.codec for name, step in steps.items() if step.codec is not None}
        written_config = target.config(spec, config, codecs)
        checkpoint = source.checkpoint
        work = bytes_hash(json.dumps([format, checkpoint.content_hash(), written_config], sort_keys=True).encode())
        lost: dict[str, float] = {}
        with FolderWriter(out, layout, resume=resume, plan_hash=work, source=checkpoint.folder) as writer:
            progress.start("converting", len(steps), "tensors")
            for name, step in steps.items():
                arrays, error = _arrays(source, spec, target, name, step)
                if step.codec is not None and not step.exact and not is_plain(step.codec):
                    lost[name] = error
                for tensor in stored[name]:
                    if not writer.done(tensor.name):
                        writer.write(tensor.name, arrays[tensor.name])
                progress.advance(1)
            progress.finish()
            writer.add_file("config.json", (json.dumps(written_config, indent=2) + "\n").encode())
            writer.carry(checkpoint, [name for name in checkpoint.other_files if name not in _OWN_FILES])
            folder = writer.finish(lambda staged: _verify(staged, source, spec, steps, lost))
        return Converted(
            folder,
            format,
            checkpoint.weight_bytes,
            layout.total_bytes,
            tuple(name for name, step in steps.items() if step.exact and step.codec is not None),
            lost,
            tuple(n for n, step in steps.items() if n in source.entries and n not in lost and not step.exact),
        )


def _target(name: str) -> Format:
    if name not in format_names():
        raise UserError(f"no format {name!r} to convert to; available: {', '.join(format_names())}")
    return FORMATS[name] if name in FORMATS else WRITERS[name]


def _spec(source: LogicalCheckpoint) -> ModelSpec:
    """Return what the logical model is. Encoded tensors count as numbers of the type the model loads in."""
    named = str(source.config.get("dtype", source.config.get("torch_dtype"))).removeprefix("torch.")
    loaded = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(named, "BF16")
    shapes = {
        name: (source.shape(name), loaded if name in source.entries else source.checkpoint.info(name).dtype)
        for name in source.names
    }
    spec = ModelSpec.build(source.config, shapes)
    untied = [alias for alias in spec.stored_aliases if not _same(source, alias, spec.ties[alias])]
    return ModelSpec.build(source.config, shapes, untied) if untied else spec


def _same(source: LogicalCheckpoint, first: str, second: str) -> bool:
    return np.array_equal(source.tensor(first), source.tensor(second))


def _plan(source: LogicalCheckpoint, spec: ModelSpec, target: Format, requantize: bool) -> dict[str, _Step]:
    """Decide for every tensor, by shapes and codecs alone."""
    matrices = set(spec.quantizable())
    whole = requantize and not source.entries
    steps: dict[str, _Step] = {}
    refused: dict[str, Codec | None] = {}
    for name in spec.tensors:
        codec = source.codec(name)
        shared = name in spec.ties.values() and not target.packs_tied
        same = None if codec is None or shared else _same_numbers(source, spec, target, name, codec)
        if same is not None:
            steps[name] = _Step(same, True)
        elif codec is None and not (whole and name in matrices):
            steps[name] = _Step(None, True)
        elif target.name == "dense":
            steps[name] = _Step(DenseCodec(load_dtype(spec)), False)
        else:
            refused[name] = codec
            steps[name] = _Step(None, False)
    if refused and not requantize:
        name, codec = next(iter(refused.items()))
        raise UserError(
            f"{target.name} cannot hold {len(refused)} of the encoded tensors as they are, such as {name} "
            f"({codec.label if codec else ''}); --requantize rounds them anew, --format steelyard keeps them"
        )
    shared_tables = set() if target.packs_tied else set(spec.ties.values())
    anew = {name: codec for name, codec in refused.items() if name not in shared_tables}
    new = _new_codec(spec, target, anew) if anew else None
    for name, codec in refused.items():
        if new is not None and name in anew and target.supports(spec, name, new):
            steps[name] = _Step(new, False)
        else:
            steps[name] = _Step(DenseCodec(load_dtype(spec)) if codec is not None else None, codec is None)
    if not any(step.codec is not None for step in steps.values()):
        raise UserError(
            f"{source.checkpoint.location} holds no encoded tensor; steelyard quantize encodes it, or --requantize"
        )
    return steps


def _same_numbers(
    source: LogicalCheckpoint, spec: ModelSpec, target: Format, name: str, codec: Codec
) -> Codec | None:
    """Return the codec itself, or one whose scales are the same numbers of another type; None if neither fits."""
    if target.supports(spec, name, codec):
        return codec
    if not isinstance(codec, IntegerCodec):
        return None
    scale = source.parts(name)["weight_scale"].astype(np.float32)
    for dtype in ("BF16", "F16", "F32"):
        other = dataclasses.replace(codec, scale_dtype=dtype)
        if target.supports(spec, name, other) and np.array_equal(_cast(scale, dtype).astype(np.float32), scale):
            return other
    return None


def _cast(scale: np.ndarray, dtype: str) -> np.ndarray:
    kind = DTYPES[dtype].numpy
    with np.errstate(over="ignore"):
        return scale.astype(kind)


def _new_codec(spec: ModelSpec, target: Format, codecs: Mapping[str, Codec | None]) -> Codec | None:
    """Return the first codec that the format supports for all of these tensors, else for any of them.

    Integers keep their bits where the format has them; formats without integers get their usual codec.
    """
    widths = [codec.bits for codec in codecs.values() if isinstance(codec, IntegerCodec | BlockwiseCodec)]
    bits, scale = max(set(widths), key=widths.count) if widths else 4, scale_dtype(spec)
    proposals: list[Codec] = [IntegerCodec(width, size, False, scale) for width in (bits, 4, 8) for size in _GROUPS]
    proposals += [BlockwiseCodec("nf", 4, 64, double=True)]
    proposals += [Float8Codec("F8_E4M3", side, side) for side in _GROUPS]
    counts = [sum(target.supports(spec, name, proposal) for name in codecs) for proposal in proposals]
    return proposals[counts.index(max(counts))] if max(counts, default=0) else None


def _stored(
    source: LogicalCheckpoint, spec: ModelSpec, target: Format, name: str, step: _Step
) -> list[StoredTensor]:
    if step.codec is None:
        info = source.checkpoint.info(name)
        return [StoredTensor(name, info.dtype, info.shape)]
    return target.stored(spec, name, step.codec)


def _arrays(
    source: LogicalCheckpoint, spec: ModelSpec, target: Format, name: str, step: _Step
) -> tuple[dict[str, np.ndarray], float]:
    """Return what is stored for a tensor, and the relative error of its new codes."""
    if step.codec is None:
        return {name: source.checkpoint.tensor(name)}, 0.0
    if step.exact:
        parts = source.parts(name)
        if isinstance(step.codec, IntegerCodec):
            parts = {**parts, "weight_scale": _cast(parts["weight_scale"], step.codec.scale_dtype)}
        return target.pack(spec, name, step.codec, parts), 0.0
    matrix = source.tensor(name)
    if spec.tensors[name].transposed:
        matrix = np.ascontiguousarray(matrix.T)
    parts = step.codec.encode(matrix, name)
    lost, kept = step.codec.residual(matrix, parts)
    return target.pack(spec, name, step.codec, parts), (lost / kept) ** 0.5 if kept else 0.0


def _verify(
    staged: Path,
    source: LogicalCheckpoint,
    spec: ModelSpec,
    steps: Mapping[str, _Step],
    lost: Mapping[str, float],
) -> None:
    """Read the folder again and hold every tensor against what it was made from."""
    with LogicalCheckpoint.open(staged) as written:
        # Encoded modules are written by today's names, where files have those of older releases.
        present = set(written.names)
        found = {name: name if name in present else f"{module_name(spec, name)}.weight" for name in steps}
        if sorted(found.values()) != sorted(present):
            odd = sorted(present ^ set(found.values()))[0]
            raise VerificationError(f"{staged}: {odd} is missing, or new; the conversion is not to be trusted")
        for name, step in steps.items():
            before, after = source.tensor(name), written.tensor(found[name])
            if name in lost or not step.exact:
                wide = before.astype(np.float64)
                size = float(np.linalg.norm(wide))
                error = float(np.linalg.norm(after.astype(np.float64) - wide)) / size if size else 0.0
                expected = lost.get(name, 0.0)
                limit = 1e-5 if name in lost else float(ml_dtypes.finfo(after.dtype).eps)  # type: ignore[no-untyped-call]
                right = before.shape == after.shape and abs(error - expected) <= limit
            else:
                right = before.dtype == after.dtype and np.array_equal(
                    np.ascontiguousarray(before).view(np.uint8), np.ascontiguousarray(after).view(np.uint8)
                )
            if not right:
                raise VerificationError(f"{staged}: {name} does not read as what was to be written")
