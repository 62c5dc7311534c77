"""Tables from files: CSV, TSV, JSON lines, JSON, Parquet, and what trainers and trackers write."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.errors import UserError

Cells = dict[str, list[str]]
"""Columns of text by name, all of one length."""

_WANDB = re.compile(r"^(?P<run>.+) - (?P<metric>.+)$")


def read_cells(path: str | Path) -> Cells:
    """Return the columns of a table as text.

    Known are .csv and .tsv (also .gz), .jsonl, .json (a list of objects, an object of columns, or the
    trainer_state.json of transformers), .parquet, and the CSV that TensorBoard and Weights & Biases export.

    Raises:
        UserError: if the file is missing, unreadable or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give a table of runs (.csv, .jsonl, .json, .parquet)")
    name = path.name.lower().removesuffix(".gz")
    suffix = name.rpartition(".")[2]
    if suffix == "parquet":
        return _parquet(path)
    text = _text(path)
    try:
        if suffix in ("csv", "tsv", "txt"):
            return _tracked(_csv(path, text, "\t" if suffix == "tsv" else ","))
        if suffix in ("jsonl", "ndjson"):
            return _objects(path, [json.loads(line) for line in text.splitlines() if line.strip()])
        if suffix == "json":
            return _json(path, json.loads(text))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON in line {error.lineno}: {error.msg}") from None
    raise UserError(f"{path}: a table of runs is .csv, .tsv, .jsonl, .json or .parquet, not .{suffix}")


def _text(path: Path) -> str:
    try:
        if path.name.endswith(".gz"):
            with gzip.open(path, "rt", encoding="utf-8-sig") as file:
                return file.read()
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: not a text file ({error}); give a table of runs") from None


def _csv(path: Path, text: str, delimiter: str) -> Cells:
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    if not rows:
        raise UserError(f"{path}: the table is empty")
    head, body = rows[0], rows[1:]
    if len(set(head)) < len(head):
        twice = next(name for name in head if head.count(name) > 1)
        raise UserError(f"{path}: two columns are called {twice!r}; rename one")
    for place, row in enumerate(body, start=2):
        if len(row) != len(head):
            raise UserError(f"{path}: row {place} has {len(row)} cells and the head {len(head)}; put it right")
    return {name: [row[place].strip() for row in body] for place, name in enumerate(head)}


def _objects(path: Path, objects: Sequence[Any]) -> Cells:
    if not objects or not all(isinstance(item, dict) for item in objects):
        raise UserError(f"{path}: a table of runs in JSON is one object for every run")
    names = list(dict.fromkeys(name for item in objects for name in item))
    return {name: [_cell(item.get(name)) for item in objects] for name in names}


def _json(path: Path, data: Any) -> Cells:
    if isinstance(data, dict) and isinstance(data.get("log_history"), list):
        return _trainer_state(path, data["log_history"])
    if isinstance(data, list):
        return _objects(path, data)
    if isinstance(data, dict) and data and all(isinstance(value, list) for value in data.values()):
        if len({len(value) for value in data.values()}) > 1:
            raise UserError(f"{path}: the columns are of different lengths")
        return {name: [_cell(item) for item in value] for name, value in data.items()}
    if isinstance(data, dict) and data and all(isinstance(value, dict) for value in data.values()):
        # As pandas writes a table: columns of values by row label.
        labels = list(dict.fromkeys(label for value in data.values() for label in value))
        return {name: [_cell(value.get(label)) for label in labels] for name, value in data.items()}
    raise UserError(f"{path}: a JSON table is a list of objects, an object of columns, or a trainer_state.json")


def _trainer_state(path: Path, history: Sequence[Mapping[str, Any]]) -> Cells:
    """The evaluations of a run where it has some, else its training losses."""
    evaluations = [entry for entry in history if "eval_loss" in entry]
    entries = evaluations or [entry for entry in history if "loss" in entry]
    if not entries:
        raise UserError(f"{path}: the log_history holds no loss")
    return _objects(path, entries)


def _tracked(cells: Cells) -> Cells:
    """Turn what TensorBoard and Weights & Biases export into one row for each run and step."""
    if set(cells) == {"Wall time", "Step", "Value"}:
        return {"step": cells["Step"], "loss": cells["Value"]}
    runs = {name: match for name in cells if (match := _WANDB.match(name)) and "__M" not in name}
    if "Step" not in cells or not runs:
        return cells
    found: Cells = {"run": [], "step": [], "loss": []}
    for name, match in runs.items():
        for step, value in zip(cells["Step"], cells[name], strict=True):
            if value:
                found["run"].append(match["run"])
                found["step"].append(step)
                found["loss"].append(value)
    return found


def _parquet(path: Path) -> Cells:
    try:
        # By name, since it is nobody's dependency: the types of this house do not hang on it.
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError(f"{path}: Parquet needs pyarrow (pip install pyarrow); or save the table as CSV") from None
    try:
        table: Any = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from None
    return {name: [_cell(value) for value in table.column(name).to_pylist()] for name in table.column_names}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)
