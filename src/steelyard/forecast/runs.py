"""Run tables: columns with a meaning, a unit and a way of counting, checked before anything is fitted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.files import Cells, read_cells
from steelyard.forecast.law import Array, Law
from steelyard.forecast.quantities import QUANTITIES, factor, get, number, plain, unit_of
from steelyard.forecast.rows import Rows, rows_of

_WIDEST = 1e8
"""A count that spans more than this is taken for a mixture of units."""

# Columns that say how another one is counted; more than one value in them is a mixture.
_COMPANIONS = {
    "N": ("paramcount", "nconvention", "counting", "nunit", "paramsunit"),
    "D": ("dunit", "tokensunit", "dataunit"),
    "C": ("flopformula", "cunit", "flopsunit"),
    "loss": ("lossunit", "losskind", "lossunits"),
    "batch": ("batchunit",),
}


@dataclass(frozen=True)
class Column:
    """One column of numbers.

    Attributes:
        quantity: what it is.
        name: its name in the file, or how it was worked out.
        values: [rows].
        unit: its unit or way of counting; "" where nothing was said.
    """

    quantity: str
    name: str
    values: Array
    unit: str = ""


@dataclass(frozen=True)
class RunTable:
    """A table of runs.

    Attributes:
        source: where it is from.
        columns: by quantity.
        lines: line of the file for every row, for messages.
        notes: what was assumed.
    """

    source: str
    columns: Mapping[str, Column]
    lines: Sequence[int]
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, quantity: str) -> bool:
        return quantity in self.columns

    def values(self, quantity: str) -> Array:
        """Return a column's numbers.

        Raises:
            UserError: if the table has no such column.
        """
        if quantity not in self.columns:
            have = ", ".join(f"{key}={column.name}" for key, column in self.columns.items())
            title = QUANTITIES[quantity].title if quantity in QUANTITIES else quantity
            raise UserError(
                f"{self.source}: no column is known as {quantity} ({title}); say which with "
                f"--map {quantity}=COLUMN (known now: {have or 'none'})"
            )
        return self.columns[quantity].values

    def unit(self, quantity: str) -> str:
        """Return the unit of a column, "" where nothing was said."""
        return self.columns[quantity].unit if quantity in self.columns else ""

    def only(self, chosen: Array) -> RunTable:
        """Return some rows."""
        columns = {
            key: Column(column.quantity, column.name, column.values[chosen], column.unit)
            for key, column in self.columns.items()
        }
        return RunTable(self.source, columns, list(np.asarray(self.lines)[chosen]), self.notes)

    def compute(self) -> Array:
        """Return what orders the runs by size: C, else N times D, else whatever of the two there is."""
        if "C" in self:
            return self.values("C")
        sizes = [self.values(name) for name in ("N", "D") if name in self]
        if not sizes:
            raise UserError(
                f"{self.source}: rows cannot be ordered by compute without N, D or C; name them with --map"
            )
        return np.asarray(np.prod(sizes, axis=0) * (6.0 if len(sizes) == 2 else 1.0))

    def rows(self, law: Law) -> Rows:
        """Return the rows as a law reads them, checked for what it needs.

        Raises:
            UserError: if a column is missing, or holds one value only.
        """
        columns = {name: self.values(name) for name in law.columns}
        for name, how in law.columns.items():
            if how != "raw" and len(np.unique(columns[name])) < 2 and len(self) > 1:
                raise UserError(
                    f"{self.source}: all {len(self)} runs have {name} = {columns[name][0]:g}; law {law.name} needs "
                    f"several values of {name} ({QUANTITIES[name].title}) to tell what it does"
                )
        return rows_of(law, columns, self.values(law.target))


def read_runs(path: str | Path, mapping: str = "", where: Iterable[str] = ()) -> RunTable:
    """Read a table of runs.

    Args:
        path: the file, see `files.read_cells`.
        mapping: quantities and columns, "N=params,D=tokens,loss=val_loss". A column may be followed by its unit or
            way of counting and by a factor: "loss=bpc:bits/char", "N=size:non-embedding:1e9".
        where: conditions "column=value" that rows must meet.

    Raises:
        UserError: naming the column and row that cannot be used.
    """
    return table_of(read_cells(path), str(path), mapping, where)


def table_of(cells: Cells, source: str, mapping: str = "", where: Iterable[str] = ()) -> RunTable:
    """Return a checked table from columns of text; arguments as in `read_runs`."""
    count = len(next(iter(cells.values()), []))
    chosen = _filtered(cells, source, where, count)
    if not chosen:
        raise UserError(f"{source}: the table holds no runs" + (" that meet --where" if list(where) else ""))
    picked = _mapped(cells, source, mapping)
    columns: dict[str, Column] = {}
    for quantity, (name, unit, scale) in picked.items():
        unit = _companion(cells, source, quantity, chosen) or unit
        values = _numbers(cells[name], source, quantity, name, chosen) * scale
        columns[quantity] = Column(quantity, name, values, unit)
    lines = [place + 2 for place in chosen]
    notes = _leave_out(columns, {word.partition("=")[0].strip() for word in mapping.split(",")})
    notes += _derive(columns)
    table = RunTable(source, columns, lines, tuple(notes))
    _check(table)
    return table


def convert(table: RunTable, quantity: str, unit: str) -> RunTable:
    """Return a table with one column in another unit.

    Raises:
        UserError: if its unit is not known or cannot be converted.
    """
    table.values(quantity)
    column = table.columns[quantity]
    if not column.unit:
        raise UserError(
            f"{table.source}: the unit of {quantity} is not known; say it with --map {quantity}={column.name}:UNIT"
        )
    times = factor(get(quantity), column.unit, unit_of(get(quantity), unit))
    changed = Column(quantity, column.name, column.values * times, unit)
    return RunTable(table.source, {**table.columns, quantity: changed}, table.lines, table.notes)


def _filtered(cells: Cells, source: str, where: Iterable[str], count: int) -> list[int]:
    chosen = list(range(count))
    for condition in where:
        name, equals, wanted = condition.partition("=")
        if not equals or name not in cells:
            raise UserError(f"--where {condition}: give COLUMN=VALUE with one of {', '.join(cells)} in {source}")
        chosen = [place for place in chosen if cells[name][place] == wanted]
        if not chosen:
            values = sorted(set(cells[name]))[:6]
            raise UserError(f"--where {condition}: no row has it; {name} is {', '.join(values)} …")
    return chosen


def _mapped(cells: Cells, source: str, mapping: str) -> dict[str, tuple[str, str, float]]:
    picked: dict[str, tuple[str, str, float]] = {}
    for word in filter(None, (word.strip() for word in mapping.split(","))):
        quantity, equals, rest = word.partition("=")
        if not equals:
            raise UserError(f"--map {word}: give QUANTITY=COLUMN, such as loss=val_loss")
        known = get(quantity)
        name, *extras = [rest] if rest in cells else rest.split(":")
        if name not in cells:
            raise UserError(f"--map {word}: {source} has no column {name!r}; it has {', '.join(cells)}")
        unit, times = "", 1.0
        for extra in extras:
            scale = number(extra)
            if scale is not None and math.isfinite(scale) and scale > 0:
                times = scale
            else:
                unit = unit_of(known, extra)
        picked[quantity] = (name, unit, times)
    for quantity, known in QUANTITIES.items():
        if quantity in picked:
            continue
        names = [name for name in cells if name == quantity or plain(name) in known.aliases]
        names = [name for name in names if name not in {used[0] for used in picked.values()}]
        if quantity in names:
            names = [quantity]
        if len(names) > 1:
            # "loss" beside "eval_loss": only the user can say.
            raise UserError(
                f"{source}: {quantity} may be {' or '.join(names)}; say which with --map {quantity}={names[0]}"
            )
        if names:
            picked[quantity] = (names[0], "", 1.0)
    return picked


def _companion(cells: Cells, source: str, quantity: str, chosen: Sequence[int]) -> str:
    """Return the unit that another column gives for this one; refuse more than one."""
    for name in cells:
        if plain(name) in _COMPANIONS.get(quantity, ()):
            values = sorted({cells[name][place] for place in chosen})
            if len(values) > 1:
                raise UserError(
                    f"{source}: {quantity} is counted in different ways: column {name!r} holds "
                    f"{', '.join(values)}; choose one with --where '{name}={values[0]}'"
                )
            return values[0]
    return ""


def _numbers(cells: Sequence[str], source: str, quantity: str, name: str, chosen: Sequence[int]) -> Array:
    values = []
    for place in chosen:
        value = number(cells[place])
        if value is None:
            raise UserError(
                f"{source}: row {place + 2}: column {name!r} ({quantity}) holds {cells[place]!r}, not a number"
            )
        values.append(value)
    return np.array(values, dtype=float)


def _leave_out(columns: dict[str, Column], asked: set[str]) -> list[str]:
    """Forget columns that nobody asked for and that have gaps, and say so."""
    notes = []
    for quantity in list(columns):
        if quantity not in asked | {"N", "D", "C", "loss"} and not np.isfinite(columns[quantity].values).all():
            notes.append(f"column {columns.pop(quantity).name!r} has gaps and is left out")
    return notes


def _derive(columns: dict[str, Column]) -> list[str]:
    """Work out D from C and N, or C from N and D, and say so."""
    if "C" in columns and "N" in columns and "D" not in columns:
        values = columns["C"].values / (6.0 * columns["N"].values)
        columns["D"] = Column("D", "C/(6N)", values, "tokens")
        return ["D is worked out as C/(6N): the table has no column of tokens"]
    if "C" not in columns and "N" in columns and "D" in columns:
        columns["C"] = Column("C", "6ND", 6.0 * columns["N"].values * columns["D"].values, "6ND")
        return ["C is worked out as 6ND"]
    return []


def _check(table: RunTable) -> None:
    if not table.columns:
        raise UserError(f"{table.source}: no column is known; say which is which with --map N=…,D=…,loss=…")
    for quantity, column in table.columns.items():
        known = QUANTITIES[quantity]
        bad = np.flatnonzero(~np.isfinite(column.values))
        if len(bad):
            raise UserError(
                f"{table.source}: row {table.lines[bad[0]]}: {quantity} (column {column.name!r}) is "
                f"{column.values[bad[0]]}; {len(bad)} of {len(table)} rows: fill them in or leave them out"
            )
        low = column.values <= known.lowest if known.above else column.values < known.lowest
        if low.any():
            place = int(np.flatnonzero(low)[0])
            than = "above" if known.above else "at least"
            raise UserError(
                f"{table.source}: row {table.lines[place]}: {quantity} (column {column.name!r}) is "
                f"{column.values[place]:g}; {known.title} is {than} {known.lowest:g}"
            )
        if quantity in ("N", "D") and column.values.max() / column.values.min() > _WIDEST:
            raise UserError(
                f"{table.source}: {quantity} (column {column.name!r}) goes from {column.values.min():g} to "
                f"{column.values.max():g}; its units look mixed: write all of it in one"
            )
    if "loss" in table:
        _check_duplicates(table)


def _check_duplicates(table: RunTable) -> None:
    measured = np.stack([column.values for column in table.columns.values()], axis=1)
    _, first, counts = np.unique(measured, axis=0, return_index=True, return_counts=True)
    if len(first) < len(measured):
        place = int(first[np.argmax(counts > 1)])
        same = np.flatnonzero((measured == measured[place]).all(axis=1))
        raise UserError(
            f"{table.source}: rows {table.lines[same[0]]} and {table.lines[same[1]]} are the same run "
            f"({len(measured) - len(first)} rows are repeated); keep one of each"
        )
