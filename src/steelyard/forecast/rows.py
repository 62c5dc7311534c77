"""The rows of a table as a law's form reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.law import Array, Law


@dataclass(frozen=True)
class Rows:
    """Columns of numbers for one law.

    Attributes:
        law: whose columns they are.
        columns: numbers by name, each of shape [rows].
        measured: what the law predicts, [rows].
        centres: mean natural logarithm of every column read by its logarithm.
    """

    law: Law
    columns: Mapping[str, Array]
    measured: Array
    centres: Mapping[str, float]

    def __len__(self) -> int:
        return len(self.measured)

    def seen(self, columns: Mapping[str, Array] | None = None) -> Any:
        """Return the columns, or others, as the law's form sees them: centred logarithms or plain numbers."""
        return view(self.law, self.columns if columns is None else columns, self.centres)

    def only(self, chosen: Array) -> Rows:
        """Return some rows, around the same centres."""
        columns = {name: column[chosen] for name, column in self.columns.items()}
        return Rows(self.law, columns, self.measured[chosen], self.centres)

    def centred(self) -> Rows:
        """Return the same rows around their own centres."""
        return rows_of(self.law, self.columns, self.measured)


def rows_of(law: Law, columns: Mapping[str, Array], measured: Array) -> Rows:
    """Return rows around their own centres.

    Args:
        law: which columns are needed.
        columns: numbers by name; others than the law's are left out.
        measured: what the law predicts.

    Raises:
        UserError: if a column is missing, or not positive where a logarithm is taken.
    """
    missing = [name for name in law.columns if name not in columns]
    if missing:
        raise UserError(
            f"law {law.name} needs the column {missing[0]}; name one of the table with --map {missing[0]}=COLUMN"
        )
    kept = {name: np.asarray(columns[name], dtype=float) for name in law.columns}
    centres = {name: float(np.log(value)) for name, value in law.references.items()}
    for name, how in law.columns.items():
        if how == "raw":
            continue
        if len(kept[name]) and kept[name].min() <= 0:
            raise UserError(
                f"column {name} holds {kept[name].min():g}; law {law.name} takes its logarithm, leave that row out"
            )
        if how == "log":
            centres[name] = float(np.log(kept[name]).mean())
    return Rows(law, kept, np.asarray(measured, dtype=float), centres)


def view(law: Law, columns: Mapping[str, Array], centres: Mapping[str, float]) -> Any:
    """Return columns as a law's form sees them."""
    seen = {}
    for name, how in law.columns.items():
        values = np.asarray(columns[name], dtype=float)
        seen[name] = values if how == "raw" else np.log(values) - (centres[name] if how == "log" else 0.0)
    return SimpleNamespace(**seen)
