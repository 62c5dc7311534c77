"""What entries of task vectors are kept: the largest, the middling, or random ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from steelyard.edits.merge.base import Grain, Task
from steelyard.edits.merge.methods._selection import Selection, keep_largest, keep_middle, magnitudes
from steelyard.errors import UserError
from steelyard.seeds import generator


class Sparsifier(ABC):
    """Which entries of the experts' task vectors are kept.

    Densities at 1 or above keep a vector whole, and those at 0 or below leave nothing of it.

    Args:
        task: with a `density` among the parameters of every expert.
    """

    rounds: int = 0
    grain: Grain = "entry"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.size = int(np.prod(task.shape, dtype=np.int64))
        self.thinned = [row for row in task.experts if task.parameters[row].density < 1]

    def observe(self, round: int, start: int, deltas: np.ndarray) -> Any:
        """Look at a piece, float32 [models, entries], of which the experts' rows are task vectors."""
        raise AssertionError(f"{type(self).__name__} has no rounds")

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        """Take in what was observed, in the order of the pieces."""
        raise AssertionError(f"{type(self).__name__} has no rounds")

    @abstractmethod
    def apply(self, start: int, deltas: np.ndarray) -> None:
        """Set to zero what is not kept, in place."""


class _Ranked(Sparsifier):
    """Keeps a range of ranks of magnitude, found by `Selection`."""

    def __init__(self, task: Task, counts: Sequence[Sequence[int]]) -> None:
        super().__init__(task)
        self._selection = Selection(self.size, counts)
        self.rounds = Selection.rounds if self.thinned else 0

    def observe(self, round: int, start: int, deltas: np.ndarray) -> Any:
        return self._selection.observe(round, start, [magnitudes(deltas[row]) for row in self.thinned])

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        self._selection.conclude(round, observed)


class Largest(_Ranked):
    """Keeps the share `density` of largest magnitude, at least one entry."""

    def __init__(self, task: Task) -> None:
        size = int(np.prod(task.shape, dtype=np.int64))
        super().__init__(task, [[_largest(task, row, size)] for row in _thinned(task)])

    def apply(self, start: int, deltas: np.ndarray) -> None:
        """Set to zero what is not kept, in place."""
        for (cut,), row in zip(self._selection.cuts, self.thinned, strict=True):
            keep_largest(deltas[row], start, cut)


class Middling(_Ranked):
    """Keeps the share `density` that comes below the largest share `gamma`, less of it where both are large."""

    def __init__(self, task: Task) -> None:
        size = int(np.prod(task.shape, dtype=np.int64))
        super().__init__(task, [_middling(task, row, size) for row in _thinned(task)])

    def apply(self, start: int, deltas: np.ndarray) -> None:
        """Set to zero what is not kept, in place."""
        for (low, high), row in zip(self._selection.cuts, self.thinned, strict=True):
            keep_middle(deltas[row], start, low, high)


class AtRandom(Sparsifier):
    """Keeps each entry with the chance `density`."""

    def apply(self, start: int, deltas: np.ndarray) -> None:
        """Set to zero what is not kept, in place."""
        from steelyard.edits.merge.methods._task_kernels import drop

        for row in self.thinned:
            chance = max(self.task.parameters[row].density, 0.0)
            drop(deltas[row], draw_key(self.task, row), start, round(chance * 2**32))


class AtRandomByRank(Sparsifier):
    """Keeps each entry with a chance between `density` -/+ `epsilon`, in proportion to its rank within its row.

    A row lies along the second axis; a tensor of one axis is one row.

    Raises:
        UserError: if a chance would leave the range from 0 to 1.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.grain = "row" if len(task.shape) == 2 else "tensor"
        for row in self.thinned:
            density, epsilon = task.parameters[row].density, task.parameters[row].epsilon
            if density > 0 and not (density - epsilon > 0 and density + epsilon < 1):
                raise UserError(
                    f"{task.name}: density {density:g} and epsilon {epsilon:g} of {task.models[row]} leave the "
                    f"range from 0 to 1; an epsilon below {min(density, 1 - density):g} does not"
                )

    def apply(self, start: int, deltas: np.ndarray) -> None:
        """Set to zero what is not kept, in place."""
        from steelyard.edits.merge.methods._task_kernels import drop_by_rank

        shape = self.task.shape
        for row in self.thinned:
            parameters = self.task.parameters[row]
            if parameters.density <= 0:
                deltas[row] = 0
                continue
            delta = deltas[row]
            if len(shape) > 2:
                delta = np.ascontiguousarray(np.moveaxis(delta.reshape(shape), 1, -1)).reshape(-1)
            width = shape[1] if len(shape) > 1 else self.size
            lowest, span = parameters.density - parameters.epsilon, 2 * parameters.epsilon
            drop_by_rank(delta, magnitudes(delta), width, lowest, span, draw_key(self.task, row), start)
            if len(shape) > 2:
                turned = delta.reshape(shape[0], *shape[2:], shape[1])
                deltas[row] = np.moveaxis(turned, -1, 1).reshape(-1)


def draw_key(task: Task, row: int) -> int:
    """Return the key of the draws for one expert: by seed, tensor and the expert's place, not its path."""
    place = task.experts.index(row)
    return int(generator(task.seed, f"{task.name}\x00{place}").integers(2**63))


def _thinned(task: Task) -> list[int]:
    return [row for row in task.experts if task.parameters[row].density < 1]


def _largest(task: Task, row: int, size: int) -> int:
    density = task.parameters[row].density
    return max(1, int(density * size)) if density > 0 else 0


def _middling(task: Task, row: int, size: int) -> tuple[int, int]:
    """Return how many entries are larger than the smallest one kept, itself among them, and how many too large."""
    kept, largest = (
        int(max(share, 0.0) * size) for share in (task.parameters[row].density, task.parameters[row].gamma)
    )
    bottom = max(0, size - kept - largest)
    return size - bottom, size - bottom - kept
