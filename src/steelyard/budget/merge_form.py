"""Merges that are stored otherwise than in plain numbers: merged beside the result, then converted or fitted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from steelyard.budget.provenance import FILE_NAME, document, versions
from steelyard.edits.merge.job import MergeResult
from steelyard.edits.merge.options import MergeOptions
from steelyard.edits.merge.preflight import Prepared
from steelyard.formats import FORMATS
from steelyard.formats.container import Container, bound
from steelyard.formats.conversion import check_plain
from steelyard.formats.convert import convert_folder
from steelyard.formats.gguf.mixes import alike, mixed
from steelyard.formats.writing import WRITERS
from steelyard.progress import Progress
from steelyard.spec import ModelSpec
from steelyard.units import parse_size

MERGED = "merged"
"""The folder of plain numbers, within the workspace."""


def check_form(ready: Prepared, options: MergeOptions) -> None:
    """Check that the result of a merge can be stored as asked, by its config and shapes.

    Raises:
        UserError: if the format has no place for such a model, or none for any of its matrices.
    """
    if options.format is None or options.budgeted:
        return
    plan = ready.plan
    spec = ModelSpec.build(plan.config, {tensor.name: (tensor.shape, tensor.dtype) for tensor in plan.tensors})
    target = FORMATS[options.format] if options.format in FORMATS else WRITERS[options.format]
    if isinstance(target, Container):
        if not ready.files:
            bound(target, ready.donor.checkpoint, spec)
        if options.type:
            alike(spec, options.type)
        if options.mix:
            mixed(spec, options.mix)
    elif options.format != "dense":
        check_plain(spec, target)


def write_form(
    made: MergeResult, merged: Path, out: Path, options: MergeOptions, resume: bool, progress: Progress
) -> MergeResult:
    """Store a merged folder as asked.

    Args:
        made: what the merge says of it.
        merged: the folder of plain numbers.
        out: the folder to make.
        options: of the merge.
        resume: continue an interrupted run.
        progress: advanced by tensors.

    Returns:
        What was merged, with the bytes of the result.

    Raises:
        UserError: naming what the format cannot hold, or for a budget that is impossible.
    """
    if options.budgeted:
        nbytes, note = _fit(merged, out, options, resume, progress)
    else:
        nbytes, note = _convert(merged, out, options, resume, progress)
    return replace(made, out=out, nbytes=nbytes, notes=(*made.notes, note))


def result_of(merged: Path) -> MergeResult:
    """Return what the record of a merged folder says of it."""
    sections: Mapping[str, Any] = json.loads((merged / FILE_NAME).read_bytes())
    plan = sections["plan"]
    return MergeResult(
        merged,
        sum(sections["bytes"]["files"].values()),
        len(plan["tensors"]),
        plan["method"],
        tuple(sections["inputs"]),
        tuple(sections["notes"]),
    )


def _convert(merged: Path, out: Path, options: MergeOptions, resume: bool, progress: Progress) -> tuple[int, str]:
    assert options.format is not None
    asked = "max_shard_size" in options.model_fields_set
    settings: dict[str, Any] = {"max_shard_size": parse_size(options.max_shard_size)} if asked else {}
    merge = json.loads((merged / FILE_NAME).read_bytes())

    def record(sections: Mapping[str, Any]) -> bytes:
        # The folder that was converted goes; what it was made of stays on record.
        origin = {key: merge[key] for key in ("request", "plan", "inputs", "notes")}
        return document(**sections, merge=origin, versions=versions())

    made = convert_folder(
        merged,
        out,
        options.format,
        requantize=options.format != "gguf",
        type=options.type,
        mix=options.mix,
        resume=resume,
        record=record,
        progress=progress,
        **settings,
    )
    if not made.requantized:
        return made.nbytes, f"stored as {options.format}, in plain numbers"
    worst = max(made.requantized, key=lambda name: made.requantized[name])
    return made.nbytes, (
        f"stored as {options.format}: {len(made.requantized)} matrices rounded without calibration, largest "
        f"relative error {made.requantized[worst]:.4f}, {worst}"
    )


def _fit(merged: Path, out: Path, options: MergeOptions, resume: bool, progress: Progress) -> tuple[int, str]:
    from steelyard.budget.fit import fit_folder
    from steelyard.budget.options import FitOptions
    from steelyard.validation import validate

    values = {
        "size": options.size,
        "bits": options.bits,
        "format": options.format,
        "seed": options.seed,
        "max_shard_size": options.max_shard_size if "max_shard_size" in options.model_fields_set else None,
    }
    made = fit_folder(merged, out, validate(FitOptions, values), resume=resume, progress=progress)
    return made.nbytes, f"fitted to {made.report.request.asked}; see report.html"
