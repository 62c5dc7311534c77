"""Where a job keeps, beside its output, what it has learnt until the output is finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

_MARKER = "request.json"


class Workspace:
    """The folder beside the output that keeps what an interrupted run has learnt; use it in a `with` block.

    Left in success it is removed; left by an error it stays, unless nothing in it would help a later run.

    Args:
        out: the output folder.
        model: what tells the model apart from others.
        options: of the job.
        resume: keep what an earlier run of the same job on the same model left.
    """

    def __init__(self, out: Path, model: Any, options: BaseModel, resume: bool) -> None:
        self.folder = out.with_name(f".{out.name}.work")
        request = json.dumps({"model": model, **options.model_dump(mode="json")}, sort_keys=True)
        marker = self.folder / _MARKER
        same = marker.exists() and marker.read_text() == request
        if self.folder.exists() and not (resume and same):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or {path.name for path in self.folder.iterdir()} == {_MARKER}:
            shutil.rmtree(self.folder, ignore_errors=True)
