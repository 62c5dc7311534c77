"""Checking a finished folder again, days later and on another machine: from its own record and the disk."""

from __future__ import annotations

from pathlib import Path

from steelyard.budget.convert import audit_conversion
from steelyard.budget.merge import audit_merge
from steelyard.budget.plan import Plan, plan_files
from steelyard.budget.provenance import FILE_NAME, read
from steelyard.errors import UserError, VerificationError
from steelyard.formats import get as get_format
from steelyard.formats.container import bound
from steelyard.formats.verify import Check, verify_folder
from steelyard.jobs import open_model
from steelyard.progress import SILENT, Progress
from steelyard.weights import file_hash

_OF_SEVERAL = ("merge", "stitch", "bridge", "pack", "unpack")
"""Verbs whose records have a hash for every tensor."""


def audit(folder: Path, against: str | None = None, progress: Progress = SILENT) -> list[Check]:
    """Check a folder that `fit` or `quantize` wrote.

    Args:
        folder: the folder.
        against: the model it was made from; with it every tensor is decoded and compared.

    Raises:
        UserError: if the folder has no record, or `against` is not the model it was made from.
        VerificationError: naming the file or tensor that is not as recorded.
    """
    record = folder / FILE_NAME
    if not record.is_file():
        raise UserError(f"{record} is missing; only folders that steelyard wrote can be verified")
    sections = read(record)
    checks = [_hashes(folder, sections["outputs"])]
    if sections.get("verb") in _OF_SEVERAL:
        if against is not None:
            raise UserError(f"{folder} is made of several models: verify it without --against")
        return [*checks, audit_merge(folder, sections)]
    if against is None:
        return checks
    if sections.get("verb") == "convert":
        return [*checks, audit_conversion(folder, against, sections)]
    with open_model(against) as opened:
        found = opened.checkpoint.content_hash(progress)
        for name, digest in sections["inputs"].items():
            if found.get(name) != digest:
                raise UserError(f"{against} is not the model {folder} was made from: {name} differs")
        plan = Plan.from_dict(sections["plan"])
        format = bound(get_format(plan.format), opened.checkpoint, opened.spec)
        checks += verify_folder(
            folder,
            plan_files(plan, opened.spec, format),
            sections["errors"],
            lambda name: opened.checkpoint.tensor(plan.tensors[name].source),
            {name: opened.spec.tensors[item.source].shape for name, item in plan.tensors.items()},
            progress,
        )
    return checks


def _hashes(folder: Path, recorded: dict[str, str]) -> Check:
    for name, digest in recorded.items():
        path = folder / name
        if not path.is_file():
            raise VerificationError(f"{path} is missing")
        if file_hash(path) != digest:
            raise VerificationError(f"{path} has changed since it was written")
    return Check("files unchanged", "pass", f"{len(recorded)} files have their recorded hashes")
