"""The `convert` job: a conversion with its record, and the check of one against its source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard.budget.provenance import document, versions
from steelyard.errors import UserError
from steelyard.formats.conversion import spec_of
from steelyard.formats.convert import Converted, convert_folder, verify_conversion
from steelyard.formats.logical import LogicalCheckpoint
from steelyard.formats.verify import Check
from steelyard.jobs import resolve
from steelyard.progress import SILENT, Progress


def convert_model(
    model: str | Path,
    out: str | Path,
    format: str,
    *,
    requantize: bool = False,
    type: str | None = None,
    mix: str | None = None,
    max_shard_size: int | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> Converted:
    """Write a folder's tensors in another format, with a `steelyard.json` beside them; see `convert_folder`.

    Raises:
        UserError: naming a tensor that the format cannot hold exactly, unless new codes are asked for.
        VerificationError: if what was written does not read as what was to be written.
    """
    return convert_folder(
        resolve(model),
        out,
        format,
        requantize=requantize,
        type=type,
        mix=mix,
        max_shard_size=max_shard_size,
        resume=resume,
        record=lambda sections: document(**sections, versions=versions()),
        progress=progress,
    )


def audit_conversion(folder: Path, against: str, sections: Mapping[str, Any]) -> Check:
    """Read a converted folder and its source again, and compare every tensor.

    Raises:
        UserError: if `against` is not what it was made from.
        VerificationError: naming the tensor that is not as recorded.
    """
    with LogicalCheckpoint.open(resolve(against)) as source:
        found = source.checkpoint.content_hash()
        for name, digest in sections["inputs"].items():
            if found.get(name) != digest:
                raise UserError(f"{against} is not what {folder} was made from: {name} differs")
        names = tuple(sections["plan"]["tensors"])
        checked = verify_conversion(folder, source, spec_of(source), sections["errors"], sections["plain"], names)
    return Check("reads as the source", "pass", checked)
