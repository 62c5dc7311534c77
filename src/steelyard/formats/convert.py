"""From any readable folder to another format, tensor by tensor: the same numbers, or only where asked new ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from steelyard.errors import UserError, VerificationError
from steelyard.formats import FORMATS
from steelyard.formats.base import Format, is_plain
from steelyard.formats.container import bound, layout_of
from steelyard.formats.conversion import Step, plan_gguf, plan_steps, spec_of
from steelyard.formats.equivalent import repack
from steelyard.formats.gguf import GgufFormat
from steelyard.formats.logical import GgufModel, LogicalCheckpoint
from steelyard.formats.targets import module_name
from steelyard.formats.writing import WRITERS
from steelyard.jobs import add_model_files
from steelyard.progress import SILENT, Progress
from steelyard.spec import ModelSpec
from steelyard.weights import FolderWriter, StoredTensor, data_hash

_RECORD = "steelyard.json"

Record = Callable[[Mapping[str, Any]], bytes]
"""Returns the content of `steelyard.json` from its sections."""


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


def format_names() -> tuple[str, ...]:
    """Return the formats that folders can be converted to."""
    return (*FORMATS, *WRITERS)


def convert_folder(
    model: str | Path,
    out: str | Path,
    format: str,
    *,
    requantize: bool = False,
    type: str | None = None,
    mix: str | None = None,
    max_shard_size: int | None = None,
    resume: bool = False,
    record: Record | None = None,
    progress: Progress = SILENT,
) -> Converted:
    """Write a folder's tensors in another format.

    Args:
        model: any folder that `LogicalCheckpoint` reads.
        out: the folder to make.
        format: one of `format_names()`.
        requantize: round anew what the format cannot hold as it is; a plain model is then encoded whole.
        type: for gguf, the type that every matrix becomes; without it and `mix`, the same numbers.
        mix: for gguf, one of llama.cpp's mixes of types that the matrices become.
        max_shard_size: bytes of tensors in a file; 5 GB if absent, and for gguf one file.
        resume: continue an interrupted run.
        record: returns the content of `steelyard.json` from what it should say; without it there is none.
        progress: advanced by tensors.

    Raises:
        UserError: naming a tensor that the format cannot hold exactly, unless `requantize`.
        VerificationError: if what was written does not read as what was to be written.
    """
    target = _target(format)
    if (type or mix) and (target.name != "gguf" or (type and mix)):
        raise UserError("give one of type and mix, and only with format gguf: they name types of GGUF")
    with LogicalCheckpoint.open(model) as source:
        if isinstance(source, GgufModel) and source.weights.lacks:
            raise UserError(source.weights.lacks)
        spec, config = spec_of(source), source.config
        target = bound(target, source.checkpoint, spec)
        if isinstance(target, GgufFormat):
            steps = plan_gguf(source, spec, target, requantize, type, mix)
        else:
            steps = plan_steps(source, spec, target, requantize)
        stored = {name: _stored(source, spec, target, name, step) for name, step in steps.items()}
        layout = layout_of(target, [tensor for group in stored.values() for tensor in group], max_shard_size)
        codecs = {name: step.codec for name, step in steps.items() if step.codec is not None}
        written_config = target.config(spec, config, codecs)
        checkpoint = source.checkpoint
        inputs = checkpoint.content_hash()
        request = {"format": format, "requantize": requantize, "type": type, "mix": mix}
        labels = {name: codec.label for name, codec in codecs.items()}
        work = data_hash([request, labels, inputs, written_config])
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
            add_model_files(writer, checkpoint, written_config)

            def verify(staged: Path) -> None:
                plain = [n for n, s in steps.items() if not s.exact and n not in lost]
                checked = verify_conversion(staged, source, spec, lost, plain, tuple(steps))
                if record is not None:
                    sections = {
                        "verb": "convert",
                        "request": request,
                        "plan": {"format": format, "tensors": {name: labels.get(name, "") for name in steps}},
                        "inputs": inputs,
                        "outputs": writer.file_hashes(),
                        "bytes": {"files": layout.file_sizes},
                        "errors": lost,
                        "plain": plain,
                        "certificates": [{"name": "reads as the source", "status": "pass", "detail": checked}],
                    }
                    writer.add_file(_RECORD, record(sections))

            folder = writer.finish(verify)
        encoded = [name for name in steps if source.codec(name) is not None]
        return Converted(
            folder,
            format,
            checkpoint.weight_bytes,
            layout.total_bytes,
            tuple(name for name in encoded if steps[name].exact),
            lost,
            tuple(name for name in encoded if name not in lost and not steps[name].exact),
        )


def _target(name: str) -> Format:
    if name not in format_names():
        raise UserError(f"no format {name!r} to convert to; available: {', '.join(format_names())}")
    return FORMATS[name] if name in FORMATS else WRITERS[name]


def _stored(
    source: LogicalCheckpoint, spec: ModelSpec, target: Format, name: str, step: Step
) -> list[StoredTensor]:
    if step.codec is None:
        info = source.checkpoint.info(name)
        return [StoredTensor(name, info.dtype, info.shape)]
    return target.stored(spec, name, step.codec)


def _arrays(
    source: LogicalCheckpoint, spec: ModelSpec, target: Format, name: str, step: Step
) -> tuple[dict[str, np.ndarray], float]:
    """Return what is stored for a tensor, and the relative error of its new codes."""
    if step.codec is None:
        return {name: source.checkpoint.tensor(name)}, 0.0
    codec = source.codec(name)
    if step.exact and codec is not None:
        parts, shape = source.parts(name), spec.tensors[name].matrix_shape
        if step.codec != codec:
            found = repack(codec, parts, shape, step.codec)
            assert found is not None
            parts = found
        return target.pack(spec, name, step.codec, parts), 0.0
    matrix = source.tensor(name)
    if spec.tensors[name].transposed:
        matrix = np.ascontiguousarray(matrix.T)
    parts = step.codec.encode(matrix, name)
    if step.exact:
        return target.pack(spec, name, step.codec, parts), 0.0
    lost, kept = step.codec.residual(matrix, parts)
    return target.pack(spec, name, step.codec, parts), (lost / kept) ** 0.5 if kept else 0.0


def verify_conversion(
    folder: Path,
    source: LogicalCheckpoint,
    spec: ModelSpec,
    lost: Mapping[str, float],
    plain: Collection[str],
    names: Sequence[str],
) -> str:
    """Read a folder again and hold every tensor against what it was made from.

    Args:
        folder: what was written.
        source: what it was made from.
        spec: of the source.
        lost: relative error of each tensor that was rounded anew.
        plain: encoded tensors that became plain numbers.
        names: of all tensors that were written.

    Returns:
        What was found, in words.

    Raises:
        VerificationError: naming a tensor that does not read as it should.
    """
    with LogicalCheckpoint.open(folder) as written:
        # Encoded modules are written by today's names, where files have those of older releases.
        present = set(written.names)
        found = {name: name if name in present else f"{module_name(spec, name)}.weight" for name in names}
        if sorted(found.values()) != sorted(present):
            odd = sorted(present ^ set(found.values()))[0]
            raise VerificationError(f"{folder}: {odd} is missing, or new; the conversion is not to be trusted")
        for name in names:
            before, after = source.tensor(name), written.tensor(found[name])
            if name in lost or name in plain:
                wide = before.astype(np.float64)
                size = float(np.linalg.norm(wide))
                error = float(np.linalg.norm(after.astype(np.float64) - wide)) / size if size else 0.0
                limit = 1e-5 if name in lost else _eps(after.dtype)
                right = before.shape == after.shape and abs(error - lost.get(name, 0.0)) <= limit
            else:
                right = _same_bits(before, after, isinstance(written, GgufModel))
            if not right:
                raise VerificationError(f"{folder}: {name} does not read as what was to be written")
    return f"{len(names)} tensors, {len(lost)} rounded anew"


def _eps(dtype: np.dtype[Any]) -> float:
    finfo: Any = ml_dtypes.finfo
    return float(finfo(dtype).eps)


def _same_bits(before: np.ndarray, after: np.ndarray, widened: bool) -> bool:
    """Tell whether two arrays hold the same bits; GGUF may hold plain numbers in a wider type."""
    if widened and before.dtype != after.dtype:
        before, after = before.astype(np.float32), after.astype(np.float32)
    if before.dtype != after.dtype or before.shape != after.shape:
        return False
    first, second = (np.ascontiguousarray(array).view(np.uint8) for array in (before, after))
    return np.array_equal(first, second)
