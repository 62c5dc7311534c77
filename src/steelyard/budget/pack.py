"""The jobs `experts pack` and `experts unpack`, with a record beside what they write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard.budget.provenance import document, versions
from steelyard.edits.merge.masks.build import MaskOptions, Objective, StoreResult, build_store
from steelyard.edits.merge.masks.store import Store
from steelyard.progress import SILENT, Progress


def pack_experts(
    base: str,
    experts: Mapping[str, str],
    out: str | Path,
    options: MaskOptions | None = None,
    objective: Objective | None = None,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> StoreResult:
    """Keep experts of one base as a merged task vector and a bit an entry each; as `build_store`."""
    return build_store(base, experts, out, options, objective, resume=resume, record=_record, progress=progress)


def unpack_expert(
    store: str | Path,
    task: str,
    out: str | Path,
    base: str | None = None,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> Path:
    """Write a task's model from a store; as `Store.reconstruct`."""
    with Store(store, base) as opened:
        return opened.reconstruct(task, out, resume=resume, record=_record, progress=progress)


def _record(sections: Mapping[str, Any]) -> bytes:
    return document(**sections, versions=versions())
