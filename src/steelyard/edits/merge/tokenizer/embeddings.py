"""A model whose embeddings and head have the rows of another vocabulary, put together as they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steelyard.edits.merge.inputs import InputModel, Reader
from steelyard.edits.merge.tokenizer.rows import TokenRows
from steelyard.errors import UserError
from steelyard.spec import ModelSpec
from steelyard.weights import Checkpoint, bytes_hash

VOCABULARY = "vocab"
_PIECE = 1 << 20


class RearrangedModel:
    """A model in another vocabulary: every tensor along the vocabulary has its rows from one or several models.

    Args:
        models: all models of the merge, by their numbers in `rows`; the wrapped one among them.
        number: of the wrapped one.
        rows: where its rows come from.
        changes: of its config, beside the number of tokens.

    Raises:
        UserError: if no table says which of its tensors lie along the vocabulary.
    """

    def __init__(
        self, models: Sequence[InputModel], number: int, rows: TokenRows, changes: Mapping[str, Any]
    ) -> None:
        self._models, self._model, self._rows = models, models[number], rows
        self.label = self._model.label
        self._tensors = vocabulary_tensors(self._model.spec)
        self._size = len(rows.own)
        self.config: Mapping[str, Any] = {**self._model.config, **changes, "vocab_size": self._size}
        self.spec = self._changed_spec()

    @property
    def checkpoint(self) -> Checkpoint:
        """The wrapped model's files."""
        return self._model.checkpoint

    @property
    def names(self) -> list[str]:
        """Every tensor by name."""
        return self._model.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        shape = self._model.shape(name)
        return (self._size, *shape[1:]) if self._canonical(name) in self._tensors else shape

    def dtype(self, name: str) -> str:
        """Return the type of the wrapped model's tensor."""
        return self._model.dtype(name)

    def reader(self, name: str) -> Reader:
        """Return what reads a tensor; those along the vocabulary come as float32."""
        if self._canonical(name) not in self._tensors:
            return self._model.reader(name)
        return _Table(self._models, self._model, name, self._rows)

    def resident(self, name: str) -> int:
        """Return the bytes that a tensor's reader holds."""
        if self._canonical(name) not in self._tensors:
            return self._model.resident(name)
        return sum(model.resident(name) for model in self._models if name in model.names)

    def done(self, name: str) -> None:
        """Say that a tensor will not be read again: other models may still need rows of a table."""
        if self._canonical(name) not in self._tensors:
            self._model.done(name)

    def identity(self) -> str:
        """Return a hash that changes with the model and with where its rows come from."""
        rows = self._rows
        used = sorted({number for found in rows.others.values() for number, _ in found})
        found = [self._model.identity(), *(self._models[number].identity() for number in used)]
        found += [bytes_hash(rows.own.tobytes()), repr(sorted(rows.others.items())), repr(rows.filled)]
        return bytes_hash("\n".join(found).encode())

    def close(self) -> None:
        """Let go of the wrapped model's files."""
        self._model.close()

    def _canonical(self, name: str) -> str:
        return self._model.spec.ties.get(name, name)

    def _changed_spec(self) -> ModelSpec:
        spec = self._model.spec
        shapes = {name: (self.shape(name), self.dtype(name)) for name in spec.tensors}
        return ModelSpec.build(self.config, shapes, untied=tuple(spec.tensors))


class _Table:
    """Reads a table along the vocabulary, or a vector such as a head's bias."""

    def __init__(self, models: Sequence[InputModel], model: InputModel, name: str, rows: TokenRows) -> None:
        self._rows = rows
        self._columns = int(np.prod(model.shape(name)[1:], dtype=np.int64))
        self._own = model.reader(name)
        used = {number for found in rows.others.values() for number, _ in found}
        self._others = {number: _reader(models[number], name, model) for number in used}
        self._average = self._mean() if rows.filled else None

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Return entries [start, stop) of the flattened table, float32."""
        columns = self._columns
        first, last = start // columns, -(-stop // columns)
        flat = self._read(first, last, self._average).reshape(-1)
        return flat[start - first * columns : stop - first * columns]

    def _read(self, first: int, last: int, average: np.ndarray | None) -> np.ndarray:
        """Rows [first, last); those to be filled are zero without an average."""
        made = np.zeros((last - first, self._columns), np.float32)
        own = self._rows.own[first:last]
        # Runs of rows that follow each other in the model's own table too are read at once.
        held = np.flatnonzero(own >= 0)
        for run in np.split(held, np.flatnonzero((np.diff(held) != 1) | (np.diff(own[held]) != 1)) + 1):
            if run.size:
                begin = int(own[run[0]]) * self._columns
                entries = self._own(begin, begin + run.size * self._columns)
                made[run[0] : run[-1] + 1] = entries.reshape(run.size, self._columns)
        for row in np.flatnonzero(own < 0):
            sources = self._rows.others.get(first + int(row))
            if sources:
                made[row] = np.mean([self._one(number, place) for number, place in sources], axis=0)
            elif sources is None and average is not None:
                made[row] = average
        return made

    def _one(self, number: int, row: int) -> np.ndarray:
        begin = row * self._columns
        return self._others[number](begin, begin + self._columns).astype(np.float32)

    def _mean(self) -> np.ndarray:
        total = np.zeros(self._columns, np.float64)
        count = len(self._rows.own)
        step = max(1, _PIECE // self._columns)
        for first in range(0, count, step):
            total += self._read(first, min(first + step, count), None).sum(axis=0, dtype=np.float64)
        mean: np.ndarray = (total / max(1, count - len(self._rows.filled))).astype(np.float32)
        return mean


def vocabulary_tensors(spec: ModelSpec) -> dict[str, str]:
    """Return the tensors whose rows are tokens, and the role of each.

    Raises:
        UserError: if no table describes the architecture.
    """
    spec.require_axes("another vocabulary")
    found = {}
    for name, tensor in spec.tensors.items():
        if tensor.axes and VOCABULARY in tensor.axes:
            if tensor.axes[0] != VOCABULARY or tensor.transposed:
                raise UserError(f"{name} has its tokens along {list(tensor.axes)}, which cannot be rearranged")
            found[name] = tensor.role or ""
    return found


def _reader(model: InputModel, name: str, lead: InputModel) -> Reader:
    """Return what reads the same table of another model, under its own name."""
    if name in model.names:
        return model.reader(name)
    wanted = lead.spec.tensors[name].role
    for found, role in vocabulary_tensors(model.spec).items():
        if role == wanted:
            return model.reader(found)
    tied = {alias: canonical for alias, canonical in model.spec.ties.items() if alias == name}
    if tied:
        return model.reader(tied[name])
    raise UserError(f"{model.label} has no {name}, from which {lead.label} would take rows")
