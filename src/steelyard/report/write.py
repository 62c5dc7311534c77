"""A report on disk: the page, the figures, and both again from `steelyard.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.errors import UserError
from steelyard.report.data import ReportData
from steelyard.report.image import can_draw, save_png
from steelyard.report.page import FIGURES, drawings, page

PAGE = "report.html"
_FOLDER = "report"
_RECORD = "steelyard.json"
_KEY = "report"


def write(folder: Path, data: ReportData) -> list[Path]:
    """Write `report.html`, and the same figures as `report/*.png` where matplotlib is installed.

    Args:
        folder: an existing folder; an earlier report in it is replaced.
        data: what to show. The same data give the same bytes.

    Returns:
        The files written, the page first.
    """
    target = folder / PAGE
    staged = folder / f".{PAGE}.partial"
    try:
        staged.write_bytes(page(data).encode("utf-8", "replace"))
        os.replace(staged, target)
        scenes = drawings(data) if can_draw() else {}
        figures = {name: folder / _FOLDER / f"{name}.png" for name in FIGURES}
        for name in figures.keys() - scenes.keys():
            figures[name].unlink(missing_ok=True)  # a figure of an earlier report would belie this one
        return [target, *(save_png(scene, figures[name]) for name, scene in scenes.items())]
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise UserError(f"{folder}: the report cannot be written: {error.strerror or error}") from None


def rebuild(folder: Path) -> list[Path]:
    """Write the report of an output folder again from the data kept in its `steelyard.json`.

    The hashes that the record keeps of the report's files become those of the new ones.

    Raises:
        UserError: if the folder has no such data.
    """
    record = folder / _RECORD
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{record} is missing; a report is rebuilt from the folder that fit or quantize wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{record} cannot be read: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get(_KEY), dict):
        raise UserError(f"{record} holds no {_KEY!r}; run fit or measure again to get one")
    paths = write(folder, ReportData.from_dict(content[_KEY]))
    _record_hashes(record, content, paths)
    return paths


def _record_hashes(record: Path, content: Mapping[str, Any], paths: Sequence[Path]) -> None:
    """Put the hashes of the report's files into the record, if that has them."""
    from steelyard.budget.provenance import document
    from steelyard.weights import file_hash

    outputs = content.get("outputs")
    if not isinstance(outputs, dict) or PAGE not in outputs:
        return
    kept = {name: digest for name, digest in outputs.items() if name != PAGE and not name.startswith(f"{_FOLDER}/")}
    made = {path.relative_to(record.parent).as_posix(): file_hash(path) for path in sorted(paths)}
    staged = record.with_name(f".{record.name}.partial")
    staged.write_bytes(document(**{**content, "outputs": {**kept, **made}}))
    os.replace(staged, record)
