"""The same tensors in several models: read together, and made anew in memory to be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.pieces import Reader
from steelyard.errors import UserError

_FLOATS = ("BF16", "F16", "F32", "F64")


class Models:
    """Several models of one shape, by label.

    Args:
        inputs: the models; the first says which tensors there are.

    Raises:
        UserError: if one lacks a tensor, or has it in another shape.
    """

    def __init__(self, inputs: Mapping[str, InputModel]) -> None:
        self.inputs = dict(inputs)
        self.labels = tuple(self.inputs)
        self.first = self.inputs[self.labels[0]]
        self.names = list(self.first.names)
        for label in self.labels[1:]:
            self._check(label)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(self.first.shape(name))

    def is_float(self, name: str) -> bool:
        """Tell whether a tensor holds floats; others, such as masks, are never merged."""
        return self.first.dtype(name) in _FLOATS

    def whole(self, label: str, name: str) -> np.ndarray:
        """Return a model's tensor as it is read."""
        shape = self.shape(name)
        return self.inputs[label].reader(name)(0, int(np.prod(shape, dtype=np.int64))).reshape(shape)

    def reader(self, name: str, labels: Sequence[str] | None = None) -> Reader:
        """Return a function that reads entries of a tensor in every model, widened to float32."""
        readers = [self.inputs[label].reader(name) for label in labels or self.labels]

        def read(start: int, stop: int) -> np.ndarray:
            values = np.empty((len(readers), stop - start), np.float32)
            for row, entries in enumerate(readers):
                values[row] = entries(start, stop)
            return values

        return read

    def _check(self, label: str) -> None:
        model, first = self.inputs[label], self.labels[0]
        held = set(model.names)
        missing = [name for name in self.names if name not in held]
        if missing:
            raise UserError(
                f"{label} lacks {len(missing)} tensors of {first}, such as {missing[0]}; "
                "only models of one architecture can be merged"
            )
        for name in self.names:
            shape = tuple(model.shape(name))
            if shape != self.shape(name):
                raise UserError(
                    f"{name} is {list(shape)} in {label}, {list(self.shape(name))} in {first}; "
                    "only models of one shape can be merged"
                )


class Computed:
    """A source whose tensors a function makes; names and config are another's.

    Args:
        like: where names, config and tensors without floats come from.
        compute: makes a tensor of this name, float32.
    """

    def __init__(self, like: Models, compute: Callable[[str], np.ndarray]) -> None:
        self._like, self._compute = like, compute

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the first model."""
        return self._like.first.config

    @property
    def names(self) -> list[str]:
        """Every tensor's name."""
        return self._like.names

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor, float32 where it holds floats."""
        return self._compute(name) if self._like.is_float(name) else self._like.whole(self._like.labels[0], name)
