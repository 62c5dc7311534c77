"""The whole of making a mixture: models opened, gates made, tensors written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.edits.merge import floats
from steelyard.edits.merge.dialect import ModelReference
from steelyard.edits.merge.inputs import InputModel, Opener
from steelyard.edits.merge.job import MergeResult
from steelyard.edits.merge.lora import adapt
from steelyard.edits.merge.moe.gates import degenerate_layers, make_gates
from steelyard.edits.merge.moe.outputs import Output, choose_output, config_of
from steelyard.edits.merge.moe.plan import Part, plan_parts
from steelyard.edits.merge.moe.recipe import MoeRecipe, check
from steelyard.edits.merge.options import ASIDE, MergeOptions
from steelyard.edits.merge.output import RECIPE_FILE, Record
from steelyard.edits.merge.problems import Problems
from steelyard.errors import UserError, WeightError
from steelyard.parallel import stream_threads
from steelyard.progress import SILENT, Progress
from steelyard.seeds import generator
from steelyard.units import parse_size
from steelyard.weights import FolderWriter, Layout, bytes_hash, check_output, plan_layout

_OWN_FILES = frozenset({"config.json", "steelyard.json", "report.html", "README.md", RECIPE_FILE})
_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_PIECE = 1 << 18


@dataclass(frozen=True)
class _Ready:
    """A mixture that can be made: its models, architecture, element type and notes."""

    models: dict[ModelReference, InputModel]
    output: Output
    dtype: str
    notes: tuple[str, ...]


def merge_mixture(
    recipe: MoeRecipe,
    out: str | Path,
    options: MergeOptions,
    *,
    where: str = "recipe",
    resume: bool = False,
    record: Record | None = None,
    progress: Progress = SILENT,
) -> MergeResult:
    """Write a mixture of experts.

    Args:
        recipe: what is asked.
        out: the folder to make.
        options: what else.
        where: what errors call the recipe.
        resume: continue an interrupted run.
        record: returns the content of `steelyard.json`.
        progress: advanced by bytes.

    Raises:
        UserError: with everything that is wrong with the models, before a byte is written.
    """
    path = check_output(out, None, resume)
    with ExitStack() as stack:
        ready = _prepare(recipe, options, stack, where)
        for model in ready.models.values():
            check_output(path, model.checkpoint.folder, resume)
        base = ready.models[recipe.base]
        plan_parts(ready.output, recipe, ready.models, None)
        gates = make_gates(recipe.gate, base, (*recipe.experts, *recipe.shared), options.seed, progress)
        parts = plan_parts(ready.output, recipe, ready.models, gates)
        notes = (*ready.notes, *_notes(recipe, gates))
        layout = _layout(parts, ready.dtype, options)
        plan = _plan_hash(parts, ready, options)
        with FolderWriter(path, layout, resume=resume, plan_hash=plan) as writer:
            _write(writer, parts, ready.dtype, options, progress)
            config = config_of(ready.output, recipe, base, _NAMES[ready.dtype])
            writer.add_file("config.json", (json.dumps(config, indent=2) + "\n").encode())
            files = base.checkpoint
            writer.carry(files, [name for name in files.other_files if name not in _OWN_FILES])
            writer.add_file(RECIPE_FILE, recipe.text.encode())
            if record is not None:
                writer.add_file(
                    "steelyard.json", record(_sections(writer, recipe, ready, parts, layout, options, notes))
                )
            folder = writer.finish()
    labels = tuple(model.label for model in ready.models.values())
    return MergeResult(folder, layout.total_bytes, len(parts), ready.output.model_type, labels, notes)


def forecast_mixture(recipe: MoeRecipe, options: MergeOptions, *, where: str = "recipe") -> dict[str, Any]:
    """Check a recipe and return what its result holds, as plain data; nothing is run or written.

    Raises:
        UserError: with everything that is wrong with the models.
    """
    with ExitStack() as stack:
        ready = _prepare(recipe, options, stack, where)
        parts = plan_parts(ready.output, recipe, ready.models, None)
        layout = _layout(parts, ready.dtype, options)
        return {
            "architecture": ready.output.model_type,
            "models": [model.label for model in ready.models.values()],
            "bytes": layout.total_bytes,
            "tensors": len(parts),
            "notes": list(ready.notes),
        }


def _prepare(recipe: MoeRecipe, options: MergeOptions, stack: ExitStack, where: str) -> _Ready:
    check(recipe, where)
    problems = Problems()
    models: dict[ModelReference, InputModel] = {}
    for reference in recipe.references():
        try:
            models[reference] = Opener(adapt, {}).open(reference)
            stack.callback(models[reference].close)
        except UserError as error:
            problems.add(str(error), f"the recipe names it as {reference}")
    problems.raise_any(where)
    try:
        output = choose_output(recipe, {model.label: model.spec.model_type for model in models.values()})
        plan_parts(output, recipe, models, None)
    except UserError as error:
        problems.add(str(error), "change the models or the architecture")
        problems.raise_any(where)
        raise
    base = models[recipe.base]
    dtype = options.element_type or recipe.dtype or base.dtype(next(iter(base.spec.tensors)))
    notes = []
    if len(recipe.experts) & (len(recipe.experts) - 1):
        notes.append(f"{len(recipe.experts)} experts are no power of two, which llama.cpp asks for")
    if len(recipe.experts) > 1 and len({expert.model for expert in recipe.experts}) == 1:
        notes.append("all experts are the same model: the result computes what it does until it is trained")
    return _Ready(models, output, dtype if dtype in _NAMES else "F32", tuple(notes))


def _notes(recipe: MoeRecipe, gates: np.ndarray) -> tuple[str, ...]:
    layers = degenerate_layers(gates[:, : len(recipe.experts)])
    if not layers:
        return ()
    shown = "all layers" if len(layers) == len(gates) else f"layers {', '.join(map(str, layers))}"
    return (f"the gates of {shown} are nearly dependent: the prompts may be too much alike to tell experts apart",)


def _layout(parts: list[Part], dtype: str, options: MergeOptions) -> Layout:
    return plan_layout([part.stored(dtype) for part in parts], parse_size(options.max_shard_size))


def _plan_hash(parts: list[Part], ready: _Ready, options: MergeOptions) -> str:
    found = hashlib.blake2b(repr((ready.dtype, ready.output.model_type, options.seed)).encode())
    for reference, model in ready.models.items():
        found.update(f"{reference}:{model.identity()}\n".encode())
    for part in parts:
        origin = "" if part.model is None else part.model.label
        found.update(repr((part.name, part.shape, origin, part.tensor, part.scale, part.noise)).encode())
        if part.values is not None:
            found.update(np.ascontiguousarray(part.values).tobytes())
    return bytes_hash(found.digest())


def _write(writer: FolderWriter, parts: list[Part], dtype: str, options: MergeOptions, progress: Progress) -> None:
    progress.start("writing", sum(part.stored(dtype).nbytes for part in parts), "B")

    def make(part: Part) -> None:
        if not writer.done(part.name):
            _write_part(writer, part, dtype, options.seed)
        progress.advance(part.stored(dtype).nbytes)

    for _ in stream_threads(make, parts, options.workers):
        pass
    progress.finish()


def _write_part(writer: FolderWriter, part: Part, dtype: str, seed: int) -> None:
    size = int(np.prod(part.shape, dtype=np.int64))
    read = None if part.model is None else part.model.reader(part.tensor)
    draw = generator(seed, part.name) if part.noise else None
    flat = np.zeros(size, np.float32) if part.values is None and read is None else part.values
    for start in range(0, size, _PIECE):
        stop = min(start + _PIECE, size)
        values = np.empty(stop - start, np.float32)
        if read is None:
            assert flat is not None
            values[:] = flat.reshape(-1)[start:stop]
            right = True
        else:
            right = floats.widen(read(start, stop), values)
        if draw is not None:
            values += np.float32(part.noise) * draw.standard_normal(values.size, dtype=np.float32)
        if part.scale != 1.0:
            values *= np.float32(part.scale)
        out = np.empty(values.size, floats.numpy_type(dtype))
        if not floats.narrow(values, dtype, out) or not right:
            origin = "the gates" if part.model is None else f"{part.tensor} of {part.model.label}"
            raise WeightError(
                f"{part.name}: {origin} hold values that are not finite in {dtype}; repair that model"
            )
        writer.write_entries(part.name, start, out)
    if part.model is not None:
        part.model.done(part.tensor)


def _sections(
    writer: FolderWriter,
    recipe: MoeRecipe,
    ready: _Ready,
    parts: list[Part],
    layout: Layout,
    options: MergeOptions,
    notes: tuple[str, ...],
) -> Mapping[str, Any]:
    asked = options.model_dump(mode="json", exclude=set(ASIDE))
    return {
        "verb": "merge",
        "request": {"recipe": recipe.text, **asked},
        "plan": {
            "method": "mixture",
            "architecture": ready.output.model_type,
            "tensors": {
                part.name: {"from": "" if part.model is None else part.model.label, "tensor": part.tensor}
                for part in parts
            },
        },
        "inputs": {model.label: {"identity": model.identity()} for model in ready.models.values()},
        "outputs": writer.file_hashes(weights=False),
        "tensors": writer.tensor_hashes(),
        "bytes": {"files": {file.name: file.size for file in layout.files}},
        "errors": {},
        "notes": list(notes),
    }
