"""The `shed` job: the beginning of a nested folder that fits a size, byte for byte what the whole begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.budget.provenance import FILE_NAME, document, read, versions
from steelyard.codecs import split
from steelyard.errors import UserError, VerificationError
from steelyard.formats.native.growth import Growth, cut_config
from steelyard.jobs import add_model_files, resolve
from steelyard.progress import SILENT, Progress
from steelyard.units import format_size
from steelyard.weights import Checkpoint, FolderWriter, Layout, StoredTensor, data_hash, plan_layout


@dataclass(frozen=True)
class Shed:
    """What `shed` made.

    Attributes:
        out: the folder.
        source_bytes: of the weight files it was cut from.
        nbytes: of its weight files.
        levels: of every nested tensor.
        full: the level each had.
    """

    out: Path
    source_bytes: int
    nbytes: int
    levels: Mapping[str, int]
    full: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "out": str(self.out),
            "source_bytes": self.source_bytes,
            "bytes": self.nbytes,
            "levels": dict(self.levels),
        }


def shed_folder(
    folder: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    bits: int | None = None,
    order: Sequence[str] | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> Shed:
    """Write the smaller version of a nested folder; nothing is encoded, bytes are copied.

    Args:
        folder: made by `nest`.
        out: the folder to make.
        size: bytes of all weight files, headers included, that the result keeps within.
        bits: instead of a size, the level of every tensor: bits of nested codes, blocks of chains.
        order: a new order of growth, instead of the folder's own.
        resume: continue an interrupted run.
        progress: advanced by bytes.

    Raises:
        UserError: if nothing is nested, the size is too small, or there is no such level.
    """
    if (size is None) == (bits is None):
        raise UserError("say either a size or bits, how much is to be left")
    source = resolve(str(folder))
    with Checkpoint.open(source) as checkpoint:
        growth = Growth.of_folder(source)
        config = dict(checkpoint.config)
        if order is not None:
            growth = replace(growth, order=tuple(order))
            names = list(growth.tensors)
            new = {"tensors": names, "order": [names.index(name) for name in order]}
            config["quantization_config"] = {**config["quantization_config"], "growth": new}
        if size is not None:
            levels, layout = _within(checkpoint, growth, size)
        else:
            assert bits is not None
            levels = growth.at(bits)
            layout = _layout(checkpoint, growth, levels)
        config["quantization_config"] = cut_config(config["quantization_config"], levels)
        hashes = checkpoint.content_hash(progress)
        work = data_hash([hashes, config])
        with FolderWriter(out, layout, resume=resume, plan_hash=work, source=checkpoint.folder) as writer:
            progress.start("copying", layout.total_bytes, "B")
            for file in layout.files:
                for name, stored in file.tensors.items():
                    if not writer.done(name):
                        writer.write(name, _first(checkpoint, name, stored))
                    progress.advance(stored.nbytes)
            progress.finish()
            add_model_files(writer, checkpoint, config)

            def finish(staged: Path) -> None:
                _verify(staged, checkpoint, growth, levels)
                writer.add_file(FILE_NAME, _record(source, growth, levels, layout, hashes, writer.file_hashes()))

            made = writer.finish(finish)
        full = {name: codec.level for name, (codec, _) in growth.tensors.items()}
        return Shed(made, checkpoint.weight_bytes, layout.total_bytes, levels, full)


def _layout(checkpoint: Checkpoint, growth: Growth, levels: Mapping[str, int]) -> Layout:
    tensors = []
    for name in checkpoint.names:
        info = checkpoint.info(name)
        shape = info.shape
        if name in growth.tensors:
            codec, matrix = growth.tensors[name]
            shape = (codec.at(levels[name]).nbytes(matrix),)
        tensors.append(StoredTensor(name, info.dtype, shape))
    return plan_layout(tensors)


def _within(checkpoint: Checkpoint, growth: Growth, size: int) -> tuple[dict[str, int], Layout]:
    """Return the levels of the longest beginning of the order whose files fit, and those files."""
    low, high = 0, len(growth.order)
    smallest = _layout(checkpoint, growth, growth.prefix(0))
    if smallest.total_bytes > size:
        raise UserError(
            f"{size:,} bytes do not hold the smallest version, {smallest.total_bytes:,} bytes "
            f"({format_size(smallest.total_bytes)})"
        )
    while low < high:
        middle = (low + high + 1) // 2
        if _layout(checkpoint, growth, growth.prefix(middle)).total_bytes <= size:
            low = middle
        else:
            high = middle - 1
    levels = growth.prefix(low)
    return levels, _layout(checkpoint, growth, levels)


def _first(checkpoint: Checkpoint, name: str, stored: StoredTensor) -> np.ndarray:
    """Return a tensor, or as much of a row of bytes as is kept; no more than that is read."""
    if checkpoint.info(name).shape == stored.shape:
        return checkpoint.tensor(name)
    return checkpoint.rows(name, 0, stored.shape[0])


def _verify(staged: Path, checkpoint: Checkpoint, growth: Growth, levels: Mapping[str, int]) -> None:
    """Hold every tensor against the bytes it was cut from, and its parts against those of the whole."""
    with Checkpoint.open(staged) as written:
        for name in checkpoint.names:
            before, after = checkpoint.tensor(name), written.tensor(name)
            if name not in growth.tensors:
                same = before.dtype == after.dtype and before.tobytes() == after.tobytes()
            else:
                codec, shape = growth.tensors[name]
                cut = codec.at(levels[name])
                found, whole = split(after, cut, shape), split(before, codec, shape)
                same = all(
                    np.array_equal(part.view(np.uint8), whole[key].view(np.uint8)) for key, part in found.items()
                )
            if not same:
                raise VerificationError(f"{staged}: {name} is not what the whole begins with")


def _record(
    source: str | Path,
    growth: Growth,
    levels: Mapping[str, int],
    layout: Layout,
    hashes: Mapping[str, str],
    outputs: Mapping[str, str],
) -> bytes:
    """Return `steelyard.json`: what still holds of the whole's record, with this version's plan and errors."""
    path = Path(source) / FILE_NAME
    before = dict(read(path)) if path.is_file() else {}
    curves = before.get("levels", {})
    plan = before.get("plan", {})
    errors = dict(before.get("errors", {}))
    kept = {}
    for name, level in levels.items():
        codec = growth.tensors[name][0]
        count = level - codec.lowest + 1
        if "tensors" in plan and name in plan["tensors"]:
            plan["tensors"][name]["codec"] = codec.at(level).to_dict()
        if name in curves:
            kept[name] = {key: values[:count] for key, values in curves[name].items()}
            errors[name] = curves[name]["errors"][count - 1]
    return document(
        levels=kept,
        plan=plan,
        versions=versions(),
        inputs=before.get("inputs", {}),
        cut_from=dict(hashes),
        outputs=dict(outputs),
        bytes={"planned": layout.total_bytes, "files": layout.file_sizes},
        errors=errors,
    )
