"""Counting a model: parameters and bytes by what they are for, and how many bits a weight really takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from steelyard.spec import ModelSpec
from steelyard.spec.ledger import parameters_of
from steelyard.spec.tensor import BUFFER
from steelyard.weigh.holding import Holding
from steelyard.weigh.subject import Subject, open_subject


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters.

    Attributes:
        unique: all of them, each once, however it is stored. Buffers are none.
        tied: those that serve a second time under another name, such as an embedding as head.
        active: those that work on one token: all but the experts it is not sent to.
        embedding: those in tables of embeddings.
        trainable: those a gradient can change as they are stored: in floats of 16 bits or more.
        stored: those in the files, a tensor that is stored twice counted twice.
        buffers: numbers the model computes by itself, which the files hold all the same.
    """

    unique: int
    tied: int
    active: int
    embedding: int
    trainable: int
    stored: int
    buffers: int


@dataclass(frozen=True)
class Bytes:
    """Where bytes are.

    Attributes:
        weights: the numbers themselves, or the codes that stand for them.
        scales: scales of all levels.
        zero_points: zero points and minima.
        overhead: what else is needed to read packed weights, scales of caches, and buffers.
        duplicates: tensors stored a second time although they are tied.
        headers: of the files, with the index.
    """

    weights: int
    scales: int
    zero_points: int
    overhead: int
    duplicates: int
    headers: int

    @property
    def total(self) -> int:
        """All bytes on disk."""
        return sum(asdict(self).values())

    @property
    def tensors(self) -> int:
        """All bytes but the headers."""
        return self.total - self.headers


@dataclass(frozen=True)
class Row:
    """Some tensors added up.

    Attributes:
        role: of all of them; None where no table tells, or where roles are added up.
        layer: of all of them; None outside of the blocks, or where layers are added up.
        encoding: of all of them; "mixed" where they differ.
        tensors: how many.
        parameters: in them.
        weights: bytes, as in `Bytes`; the others likewise.
    """

    role: str | None
    layer: int | None
    encoding: str
    tensors: int
    parameters: int
    weights: int
    scales: int
    zero_points: int
    overhead: int

    @property
    def nbytes(self) -> int:
        """Bytes of everything that stands for them."""
        return self.weights + self.scales + self.zero_points + self.overhead

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each parameter; 0 where there are none."""
        return 8 * self.nbytes / self.parameters if self.parameters else 0.0


@dataclass(frozen=True)
class Weighing:
    """What a model holds.

    Attributes:
        subject: what was weighed: its spec, and what stands for each tensor.
        rows: one for each tensor of the model, tied ones once, in the order of the table.
        parameters: how many.
        nbytes: how large.

    Example:
        >>> import steelyard as sy
        >>> weighed = sy.weigh("reference")  # doctest: +SKIP
        >>> weighed.parameters.unique, weighed.nbytes.total, weighed.cache_bytes(4096)  # doctest: +SKIP
    """

    subject: Subject
    rows: tuple[tuple[str, Row], ...]
    parameters: Parameters
    nbytes: Bytes

    @property
    def spec(self) -> ModelSpec:
        """The model's spec, for `steelyard.weigh`'s other functions."""
        return self.subject.spec

    @property
    def source(self) -> str:
        """What was read: "weights", "gguf" or "config"."""
        return self.subject.source

    @property
    def bits_per_weight(self) -> float:
        """Bits on disk for each unique parameter, everything included."""
        return 8 * self.nbytes.total / max(1, self.parameters.unique)

    @property
    def quantized_bits_per_weight(self) -> float | None:
        """The same of the quantized tensors alone, without headers; None if there are none."""
        packed = [row for name, row in self.rows if not self.subject.holdings[name].plain and row.parameters]
        count = sum(row.parameters for row in packed)
        return 8 * sum(row.nbytes for row in packed) / count if count else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Everything that was guessed or found odd."""
        return (*self.spec.notes, *self.subject.notes)

    def by_role(self) -> tuple[Row, ...]:
        """One row for each role, layers added up."""
        return _merge((row for _, row in self.rows), lambda row: (row.role, None))

    def by_layer(self) -> tuple[Row, ...]:
        """One row for each layer, roles added up; what is outside of the blocks comes first."""
        merged = _merge((row for _, row in self.rows), lambda row: (None, row.layer))
        return tuple(sorted(merged, key=lambda row: -1 if row.layer is None else row.layer))

    def by_encoding(self) -> tuple[Row, ...]:
        """One row for each way of storing numbers."""
        merged: dict[str, list[Row]] = {}
        for _, row in self.rows:
            merged.setdefault(row.encoding, []).append(row)
        return tuple(_sum(None, None, rows) for rows in merged.values())

    @cached_property
    def by_role_and_layer(self) -> tuple[Row, ...]:
        """One row for each role in each layer."""
        return _merge((row for _, row in self.rows), lambda row: (row.role, row.layer))

    def cache_bytes(self, context: int, batch: int = 1, bits: int = 16) -> int:
        """Return the bytes kept of a context; see `steelyard.weigh.cache.cache_bytes`."""
        from steelyard.weigh.cache import cache_bytes

        return cache_bytes(self.spec, context, batch, bits)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        from steelyard.weigh.report import plain_data

        return plain_data(self)

    def to_csv(self) -> str:
        """Return one line for each tensor as CSV."""
        from steelyard.weigh.report import csv_lines

        return csv_lines(self)

    def _repr_html_(self) -> str:
        from steelyard.weigh.report import fragment

        return fragment(self)

    def __repr__(self) -> str:
        kind = self.spec.model_type or "unknown architecture"
        return (
            f"Weighing({self.subject.location!r}, {kind}, {self.parameters.unique:,} parameters, "
            f"{self.nbytes.total:,} bytes)"
        )


def weigh(location: str | Path | Mapping[str, Any] | ModelSpec, dtype: str | None = None) -> Weighing:
    """Count what a model holds, from headers and config alone.

    Args:
        location: a folder, a .safetensors, .gguf or config .json file, an fsspec URL, an id in the local Hugging
            Face cache, a config, or a spec.
        dtype: element type that a model without weights is weighed in, such as "BF16"; by default its config's.

    Raises:
        UserError: for anything missing, damaged or contradictory.
    """
    return count(open_subject(location, dtype))


def count(subject: Subject) -> Weighing:
    """Count an opened model."""
    spec, holdings = subject.spec, subject.holdings
    order = {} if spec.architecture is None else {r.role: i for i, r in enumerate(spec.architecture.rules)}
    rows = []
    buffers = embedding = trainable = unique = 0
    for name, tensor in spec.tensors.items():
        holding = holdings[name]
        counted = parameters_of(tensor)
        row = Row(
            tensor.role,
            tensor.layer,
            holding.encoding,
            1,
            counted,
            holding.weights,
            holding.scales,
            holding.zero_points,
            holding.overhead,
        )
        rows.append((name, row))
        unique += counted
        trainable += counted if holding.plain else 0
        embedding += counted if tensor.kind == "embedding" else 0
        buffers += holding.elements if tensor.role == BUFFER else 0
    rows.sort(key=lambda pair: order.get(pair[1].role or "", len(order)))
    aliases = [holdings[alias] for alias in spec.stored_aliases]
    tied = sum(math.prod(spec.tensors[name].shape) for name in spec.ties.values() if name in spec.tensors)
    parameters = Parameters(
        unique=unique,
        tied=tied,
        active=_active(spec, unique),
        embedding=embedding,
        trainable=trainable,
        stored=unique + sum(holding.elements for holding in aliases),
        buffers=buffers,
    )
    return Weighing(subject, tuple(rows), parameters, _bytes(subject, [row for _, row in rows], aliases))


def _bytes(subject: Subject, rows: list[Row], aliases: list[Holding]) -> Bytes:
    buffers = sum(row.weights for row in rows if row.role == BUFFER)
    duplicates = sum(holding.nbytes for holding in aliases)
    overhead = sum(row.overhead for row in rows) + sum(subject.loose.values())
    data = sum(row.nbytes for row in rows) + duplicates + sum(subject.loose.values())
    return Bytes(
        weights=sum(row.weights for row in rows) - buffers,
        scales=sum(row.scales for row in rows),
        zero_points=sum(row.zero_points for row in rows),
        overhead=overhead + buffers,
        duplicates=duplicates,
        headers=0 if subject.file_bytes is None else subject.file_bytes - data,
    )


def _active(spec: ModelSpec, unique: int) -> int:
    if spec.architecture is None or not spec.architecture.active:
        return unique
    from steelyard.weigh.flops import active_parameters

    return min(unique, active_parameters(spec))


def _merge(rows: Iterable[Row], key: Callable[[Row], tuple[str | None, int | None]]) -> tuple[Row, ...]:
    groups: dict[tuple[str | None, int | None], list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return tuple(_sum(role, layer, members) for (role, layer), members in groups.items())


def _sum(role: str | None, layer: int | None, rows: list[Row]) -> Row:
    encodings = {row.encoding for row in rows}
    return Row(
        role,
        layer,
        encodings.pop() if len(encodings) == 1 else "mixed",
        *(
            sum(getattr(row, name) for row in rows)
            for name in ("tensors", "parameters", "weights", "scales", "zero_points", "overhead")
        ),
    )
