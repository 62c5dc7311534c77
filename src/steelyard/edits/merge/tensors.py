"""The same tensors in several models: read together, and merged in memory to be measured before writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from steelyard.edits.merge.base import Task
from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.pieces import Reader, merge_tensor
from steelyard.edits.merge.registry import MergeMethod
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


class MergedSource:
    """What a method would make of some models, tensor by tensor when asked for.

    Args:
        models: the inputs; tensors that hold no floats come from the first.
        method: the merge method.
        options: of the method, validated.
        parameters: returns, for a tensor's name, one validated `per_model` for each input.
        base: label of the base model; None for none.
        seed: of everything drawn.
    """

    def __init__(
        self,
        models: Models,
        method: MergeMethod,
        options: Any,
        parameters: Callable[[str], Sequence[Any]],
        base: str | None = None,
        seed: int = 0,
    ) -> None:
        self._models, self._method, self._options = models, method, options
        self._parameters, self._base, self._seed = parameters, base, seed

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the base, or of the first input."""
        return self._models.inputs[self._base or self._models.labels[0]].config

    @property
    def names(self) -> list[str]:
        """Every tensor's name."""
        return self._models.names

    def tensor(self, name: str) -> np.ndarray:
        """Return a merged tensor, float32."""
        models = self._models
        if not models.is_float(name):
            return models.whole(models.labels[0], name)
        base = None if self._base is None else models.labels.index(self._base)
        given = tuple(self._parameters(name))
        task = Task(name, models.shape(name), models.labels, base, given, self._seed)
        merge = self._method.function(task, self._options)
        return merge_tensor(merge, task.shape, models.reader(name))


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
