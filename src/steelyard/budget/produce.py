"""From a plan to a finished folder: written, verified, described, and only then given its name."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.budget.execute import Made, write_plan
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.plan import Plan, plan_files
from steelyard.budget.provenance import FILE_NAME, document, versions
from steelyard.errors import WeightError
from steelyard.formats import Format
from steelyard.formats.verify import Check, verify_folder
from steelyard.jobs import OpenModel
from steelyard.progress import SILENT, Progress
from steelyard.weights import FolderWriter, Layout, data_hash, file_hash, staging_folder


@dataclass(frozen=True)
class Produced:
    """A finished folder.

    Attributes:
        folder: its final name.
        plan: what was written.
        layout: its weight files.
        errors: relative error of each encoded tensor.
        checks: what the independent reader proved.
        sections: what the caller added to `steelyard.json`.
    """

    folder: Path
    plan: Plan
    layout: Layout
    errors: Mapping[str, float]
    checks: tuple[Check, ...]
    sections: Mapping[str, Any]


Describe = Callable[["Staged"], Mapping[str, Any]]
"""Looks at the verified, staged folder and returns sections for `steelyard.json`; it may add files to it."""


@dataclass(frozen=True)
class Staged:
    """A verified folder that has not taken its name yet."""

    folder: Path
    layout: Layout
    errors: Mapping[str, float]
    checks: tuple[Check, ...]


def produce(
    plan: Plan,
    opened: OpenModel,
    format: Format,
    knowledge: KnowledgeBase,
    out: Path,
    *,
    resume: bool = False,
    describe: Describe = lambda staged: {},
    progress: Progress = SILENT,
    made: Made | None = None,
) -> Produced:
    """Write a plan as a folder; `made` gives parts that are not to be encoded here, as `write_plan` has it.

    Raises:
        UserError: for a weight that is not finite, a full disk, an existing folder.
        VerificationError: if what was written is not what was planned; the folder does not take its name.
    """
    spec, checkpoint = opened.spec, opened.checkpoint
    layout = plan_files(plan, spec, format)
    hashes = checkpoint.content_hash(progress)
    # What an earlier run left is of use only if it came from the same weights, by the same program.
    work = data_hash([plan.hash(), hashes, versions()])
    with (
        _unless_unusable(out),
        FolderWriter(out, layout, resume=resume, plan_hash=work, source=checkpoint.folder) as writer,
    ):
        outcome = write_plan(plan, checkpoint, spec, format, knowledge, writer, progress, made)
        checks: list[Check] = []
        sections: dict[str, Any] = {}

        def verify(folder: Path) -> None:
            checks.extend(
                verify_folder(
                    folder,
                    layout,
                    outcome.errors,
                    lambda name: checkpoint.tensor(plan.tensors[name].source),
                    {name: spec.tensors[item.source].shape for name, item in plan.tensors.items()},
                    progress,
                )
            )
            sections.update(describe(Staged(folder, layout, outcome.errors, tuple(checks))))
            outputs = writer.file_hashes()
            writer.add_file(
                FILE_NAME,
                document(
                    **sections,
                    plan=plan.to_dict(),
                    plan_hash=plan.hash(),
                    versions=versions(),
                    inputs=hashes,
                    outputs={**outputs, **_added(folder, outputs)},
                    bytes={"planned": layout.total_bytes, "files": layout.file_sizes},
                    errors=dict(outcome.errors),
                    certificates=[check.to_dict() for check in checks],
                ),
            )

        folder = writer.finish(verify)
    return Produced(folder, plan, layout, outcome.errors, tuple(checks), sections)


def _added(folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes of what a description added to a folder: its report."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: file_hash(path) for name, path in files.items() if name not in known and name != FILE_NAME}


@contextmanager
def _unless_unusable(out: Path) -> Iterator[None]:
    """Remove what is staged for an output when a weight shows that it can never be finished."""
    try:
        yield
    except WeightError:
        shutil.rmtree(staging_folder(out), ignore_errors=True)
        raise
