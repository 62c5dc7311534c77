"""What entries of task vectors are kept: the largest, the middling, or random ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from steelyard.edits.merge.base import Grain, Task
from steelyard.edits.merge.methods._rows import base_of
from steelyard.edits.merge.methods._selection import Selection, keep_ranks, magnitudes
from steelyard.errors import UserError
from steelyard.seeds import generator

_REMEMBERED = 1 << 29  # entries of all task vectors of a tensor whose masks are kept, in an eighth as many bytes


class Kept:
    """What is kept of the task vectors in a piece: a range of magnitudes, and of it what is drawn.

    Attributes:
        limits: float32 [2, models], the smallest magnitude that is kept, the smallest above it that is not.
        draws: uint64 [2, models], keys of draws, and 2^32 times the chance to be kept.
    """

    def __init__(self, models: int) -> None:
        self.limits = np.array([[0], [np.inf]], np.float32).repeat(models, axis=1)
        self.draws = np.array([[0], [2**32]], np.uint64).repeat(models, axis=1)


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
        self._base = base_of(task)
        self.size = int(np.prod(task.shape, dtype=np.int64))
        self.thinned = [row for row in task.experts if task.parameters[row].density < 1]

    def observe(self, round: int, start: int, values: np.ndarray) -> Any:
        """Look at a piece of the models, float32 [models, entries]."""
        raise AssertionError(f"{type(self).__name__} has no rounds")

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        """Take in what was observed, in the order of the pieces."""
        raise AssertionError(f"{type(self).__name__} has no rounds")

    def kept(self, start: int) -> Kept | None:
        """Return what is kept in a piece, if magnitudes and draws tell it; None if `apply` has to do it."""
        return None

    def weigh(self, start: int, values: np.ndarray) -> np.ndarray:
        """Return the sums of magnitudes in a piece of every thinned task vector before and after thinning.

        Args:
            start: position of the first entry.
            values: float32 [models, entries], overwritten.

        Returns:
            float64 [2, thinned].
        """
        from steelyard.edits.merge.methods._sum_kernels import absolute, subtract

        subtract(values, self._base)
        before = [absolute(values[row]) for row in self.thinned]
        self.apply(start, values)
        return np.array([before, [absolute(values[row]) for row in self.thinned]])

    @abstractmethod
    def apply(self, start: int, deltas: np.ndarray) -> None:
        """Set to zero what is not kept of a piece of task vectors, float32 [models, entries], in place."""


class _Ranked(Sparsifier):
    """Keeps a range of ranks of magnitude, found by `Selection`; equal magnitudes rank by position.

    Args:
        task: what is merged.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._selection = Selection(self.size, [self._counts(row) for row in self.thinned])
        self.rounds = Selection.rounds if self.thinned else 0

    @abstractmethod
    def _counts(self, row: int) -> tuple[int, int]:
        """Return how many entries are at least as large as the smallest one kept, and how many are too large."""

    def observe(self, round: int, start: int, values: np.ndarray) -> Any:
        rows = [values[row] for row in self.thinned]
        return self._selection.observe_differences(round, start, rows, values[self._base])

    def conclude(self, round: int, observed: Sequence[Any]) -> None:
        self._selection.conclude(round, observed)

    def kept(self, start: int) -> Kept | None:
        kept = Kept(len(self.task.models))
        for cuts, row in zip(self._selection.cuts, self.thinned, strict=True):
            if any(cut.split is not None and cut.split[0] == start for cut in cuts):
                return None
            kept.limits[:, row] = np.array([cut.floor(start) for cut in cuts], np.uint32).view(np.float32)
        return kept

    def apply(self, start: int, deltas: np.ndarray) -> None:
        for (low, high), row in zip(self._selection.cuts, self.thinned, strict=True):
            keep_ranks(deltas[row], start, low, high)


class Largest(_Ranked):
    """Keeps the share `density` of largest magnitude, at least one entry."""

    def _counts(self, row: int) -> tuple[int, int]:
        density = self.task.parameters[row].density
        return (max(1, int(density * self.size)) if density > 0 else 0), 0


class Middling(_Ranked):
    """Keeps the share `density` that comes below the largest share `gamma`, or less of that share if need be."""

    def _counts(self, row: int) -> tuple[int, int]:
        given = self.task.parameters[row]
        kept, largest = (int(max(share, 0.0) * self.size) for share in (given.density, given.gamma))
        bottom = max(0, self.size - kept - largest)
        return self.size - bottom, self.size - bottom - kept


class AtRandom(Sparsifier):
    """Keeps each entry with the chance `density`."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._kept = Kept(len(task.models))
        for row in self.thinned:
            chance = round(max(task.parameters[row].density, 0.0) * 2**32)
            self._kept.draws[:, row] = draw_key(task, row), chance

    def kept(self, start: int) -> Kept | None:
        return self._kept

    def weigh(self, start: int, values: np.ndarray) -> np.ndarray:
        from steelyard.edits.merge.methods._task_kernels import weigh_dropped

        sums = np.empty((len(self.thinned), 2))
        for place, row in enumerate(self.thinned):
            key, chance = self._kept.draws[:, row]
            weigh_dropped(values[row], values[self._base], key, start, chance, sums[place])
        return sums.T

    def apply(self, start: int, deltas: np.ndarray) -> None:
        from steelyard.edits.merge.methods._task_kernels import drop

        for row in self.thinned:
            key, chance = self._kept.draws[:, row]
            drop(deltas[row], key, start, chance)


class AtRandomByRank(Sparsifier):
    """Keeps each entry with a chance between `density` -/+ `epsilon`, in proportion to its rank within its row.

    A row lies along the second axis; a tensor of one axis is one row.

    Raises:
        UserError: if a chance would leave the range from 0 to 1.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.grain = "row" if len(task.shape) == 2 else "tensor"
        self._remembers = self.size * len(self.thinned) <= _REMEMBERED
        self._masks: dict[tuple[int, int], np.ndarray] = {}
        self._keys = {row: draw_key(task, row) for row in self.thinned}
        for row in self.thinned:
            density, epsilon = task.parameters[row].density, task.parameters[row].epsilon
            if density > 0 and not (density - epsilon > 0 and density + epsilon < 1):
                raise UserError(
                    f"{task.name}: density {density:g} and epsilon {epsilon:g} of {task.models[row]} leave the "
                    f"range from 0 to 1; an epsilon below {min(density, 1 - density):g} does not"
                )

    def weigh(self, start: int, values: np.ndarray) -> np.ndarray:
        sums = super().weigh(start, values)
        if self._remembers:
            for row in self.thinned:
                self._masks[start, row] = np.packbits(values[row] != 0)
        return sums

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
            if (mask := self._masks.pop((start, row), None)) is not None:
                delta *= np.unpackbits(mask, count=delta.size)
                continue
            if len(shape) > 2:
                delta = np.ascontiguousarray(np.moveaxis(delta.reshape(shape), 1, -1)).reshape(-1)
            width = shape[1] if len(shape) > 1 else self.size
            lowest, span = parameters.density - parameters.epsilon, 2 * parameters.epsilon
            drop_by_rank(delta, magnitudes(delta), width, lowest, span, self._keys[row], start)
            if len(shape) > 2:
                turned = delta.reshape(shape[0], *shape[2:], shape[1])
                deltas[row] = np.moveaxis(turned, -1, 1).reshape(-1)


def draw_key(task: Task, row: int) -> int:
    """Return the key of the draws for one expert: by seed, tensor and the expert's place, not its path."""
    place = task.experts.index(row)
    return int(generator(task.seed, f"{task.name}\x00{place}").integers(2**63))
