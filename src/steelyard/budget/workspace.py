"""Where a job keeps, beside its output, what it has learnt until the output is finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Workspace:
    """The folder beside the output that keeps what an interrupted run has learnt."""

    def __init__(self, out: Path, request: Mapping[str, Any], resume: bool) -> None:
        self.folder = out.with_name(f".{out.name}.work")
        self._request = json.dumps(request, sort_keys=True)
        marker = self.folder / "request.json"
        same = marker.exists() and marker.read_text() == self._request
        if self.folder.exists() and not (resume and same):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(self._request)

    def leave(self) -> None:
        """Remove it if nothing in it would help a later run."""
        if {path.name for path in self.folder.iterdir()} == {"request.json"}:
            self.remove()

    def remove(self) -> None:
        """Remove it: the output is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)
