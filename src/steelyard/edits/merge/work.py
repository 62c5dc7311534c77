"""The work on one tensor of a merge, piece by piece: the same for every engine, so that all give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from steelyard.edits.merge import floats
from steelyard.edits.merge.base import Merge, Piece
from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.pieces import cuts
from steelyard.edits.merge.plan import MergePlan, PlannedTensor
from steelyard.errors import WeightError

PIECE = 1 << 16
"""Entries of a piece: those of a few models stay in the processor's cache."""

Place = tuple[int, int]
"""The first and the past-the-last entry of a piece."""


class Room:
    """Arrays of one worker, used again and again."""

    def __init__(self) -> None:
        self._kept: dict[str, np.ndarray] = {}

    def array(self, use: str, entries: int, dtype: np.dtype[Any]) -> np.ndarray:
        """Return an array of that many entries, of any content; what it held before is gone."""
        nbytes = entries * dtype.itemsize
        kept = self._kept.get(use)
        if kept is None or kept.nbytes < nbytes:
            kept = self._kept[use] = np.empty(nbytes, np.uint8)
        return kept[:nbytes].view(dtype)


class TensorWork:
    """A tensor that is being merged: its readers, the method bound to it, and the pass it is in.

    Args:
        plan: what the tensor belongs to.
        planned: the tensor; not one that is copied.
        models: of the plan, in its order.
    """

    def __init__(self, plan: MergePlan, planned: PlannedTensor, models: Sequence[InputModel]) -> None:
        self.planned = planned
        self.round = 0
        self._labels = [plan.models[origin.model] for origin in planned.origins]
        self._readers = [models[origin.model].reader(origin.tensor) for origin in planned.origins]
        self._merge: Merge = plan.method.function(planned.task(plan.models, plan.seed), planned.options)
        self._columns = planned.shape[-1] if planned.shape else 1
        self._factors: Sequence[float] | None = None

    @property
    def combining(self) -> bool:
        """Whether this is the last pass, which makes the result."""
        return self.round == self._merge.rounds

    def cuts(self) -> list[Place]:
        """Begin a pass; return where it cuts the tensor."""
        if self.combining:
            factors = self._merge.coefficients()
            self._factors = None if factors is None else [float(factor) for factor in factors]
        grain = "entry" if self._factors is not None else self._merge.grain
        return cuts(self.planned.shape, grain, PIECE)

    def observe(self, place: Place, room: Room) -> Any:
        """Return what must be known of a piece, in a pass that is not the last.

        Raises:
            WeightError: naming model, tensor and place of a value that is not finite.
        """
        return self._merge.observe(self.round, Piece(place[0], self._read(place, room), self._columns))

    def conclude(self, observed: Sequence[Any]) -> None:
        """Take in what was observed, in the order of the pieces, and go on to the next pass."""
        self._merge.conclude(self.round, observed)
        self.round += 1

    def combine(self, place: Place, room: Room, out: np.ndarray) -> None:
        """Write the merged entries of a piece, in the result's type.

        Raises:
            WeightError: naming a value that is not finite, or does not fit the type.
        """
        start, stop = place
        right = True
        if self._factors is None:
            merged = self._merge.combine(Piece(start, self._read(place, room), self._columns))
        else:
            merged = room.array("sum", stop - start, np.dtype(np.float32))
            for number, (reader, factor) in enumerate(zip(self._readers, self._factors, strict=True)):
                right &= floats.add(reader(start, stop), factor, number == 0, merged)
        if not floats.narrow(merged, self.planned.dtype, out) or not right:
            self._explain(place, merged)

    def entries(self, places: Sequence[Place], room: Room) -> np.ndarray:
        """Return the merged entries of neighbouring pieces, a new array in the result's type."""
        first = places[0][0]
        out = np.empty(places[-1][1] - first, floats.numpy_type(self.planned.dtype))
        for start, stop in places:
            self.combine((start, stop), room, out[start - first : stop - first])
        return out

    def pass_over(self, places: Sequence[Place], room: Room) -> None:
        """Do a whole pass that is not the last in this thread."""
        self.conclude([self.observe(place, room) for place in places])

    def _read(self, place: Place, room: Room) -> np.ndarray:
        """Return a piece of every model as float32 [models, entries]."""
        start, stop = place
        count = len(self._readers)
        values = room.array("models", count * (stop - start), np.dtype(np.float32)).reshape(count, stop - start)
        for row, reader in enumerate(self._readers):
            if not floats.widen(reader(start, stop), values[row]):
                self._explain(place, None)
        return values

    def _explain(self, place: Place, merged: np.ndarray | None) -> None:
        """Name the value that is not finite.

        Raises:
            WeightError: always.
        """
        start, stop = place
        planned = self.planned
        for label, origin, reader in zip(self._labels, planned.origins, self._readers, strict=True):
            source = reader(start, stop)
            found = floats.first_not_finite(source)
            if found is not None:
                raise WeightError(
                    f"{label}: {origin.tensor} holds {float(source[found])} at "
                    f"{_position(planned.shape, start + found)}; repair that model or take it out"
                )
        assert merged is not None
        limit = float(np.abs(merged).max())
        raise WeightError(
            f"{planned.name}: the merged values reach {limit:g}, beyond {planned.dtype}; choose another out_dtype "
            "or smaller weights"
        )


def copied(planned: PlannedTensor, models: Sequence[InputModel]) -> np.ndarray:
    """Return a tensor that is copied as it is."""
    (origin,) = planned.origins
    return models[origin.model].reader(origin.tensor)(0, planned.entries).reshape(planned.shape)


def _position(shape: tuple[int, ...], entry: int) -> list[int]:
    return [int(index) for index in np.unravel_index(entry, shape)]
