"""The merge itself: pieces of a few thousand entries pass from the files through float32 to the result.

Every worker takes the next run of pieces of any tensor that is open, or opens the next tensor, so that all are
busy until the last run; memory holds a few pieces for each of them, whatever the size of the models. What is
written does not depend on which worker did what.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steelyard.edits.merge import floats
from steelyard.edits.merge.base import Merge, Piece
from steelyard.edits.merge.inputs import InputModel, Reader
from steelyard.edits.merge.pieces import cuts, merged_pieces
from steelyard.edits.merge.plan import MergePlan, PlannedTensor
from steelyard.errors import WeightError
from steelyard.parallel import cpu_count, single_threaded_blas
from steelyard.progress import SILENT, Progress
from steelyard.weights import FolderWriter

PIECE = 1 << 16
"""Entries of a piece: those of a few models stay in the processor's cache."""

RUN = 1 << 20
"""Entries that a worker takes at a time."""


@dataclass
class _Open:
    """A tensor that is being merged.

    Attributes:
        planned: what it is.
        merge: the method, bound to it.
        readers: of its rows.
        columns: entries of one of its rows.
        round: the pass it is in; the last one combines.
        left: runs of this pass that are not done.
        observed: what was seen in this pass, by piece.
        factors: of the models where it is their weighted sum.
    """

    planned: PlannedTensor
    merge: Merge
    readers: tuple[Reader, ...]
    columns: int
    round: int = 0
    left: int = 0
    observed: dict[int, Any] = field(default_factory=dict)
    factors: Sequence[float] | None = None


@dataclass(frozen=True)
class _Run:
    """Pieces of an open tensor that one worker does in a row: numbers, first and past-the-last entries."""

    tensor: _Open
    pieces: tuple[tuple[int, int, int], ...]


def merge_tensors(
    plan: MergePlan,
    models: Sequence[InputModel],
    writer: FolderWriter,
    progress: Progress = SILENT,
    workers: int | None = None,
) -> None:
    """Merge every tensor of a plan that is not written yet.

    Args:
        plan: what to do.
        models: the models of the plan, in its order.
        writer: of the result.
        progress: advanced by bytes of the result.
        workers: threads; as many as there are processors if absent.

    Raises:
        UserError: naming model, tensor and place of a value that is not finite; or if the disk is full.
    """
    progress.start("merging", sum(tensor.nbytes for tensor in plan.tensors), "B")
    with _blas_limits(plan):
        _Engine(plan, models, writer, progress).run(workers or cpu_count())
    progress.finish()


def rehearse(plan: MergePlan, tensor: PlannedTensor, models: Sequence[InputModel]) -> None:
    """Merge one tensor in this thread and let go of it, to see how long it takes.

    Args:
        plan: what it belongs to.
        tensor: of the plan, or the beginning of one.
        models: the models of the plan.
    """
    readers = tuple(models[origin.model].reader(origin.tensor) for origin in tensor.origins)
    merge = plan.method.function(tensor.task(plan.models, plan.seed), tensor.options)

    def read(start: int, stop: int) -> np.ndarray:
        values = np.empty((len(readers), stop - start), np.float32)
        for row, reader in enumerate(readers):
            floats.widen(reader(start, stop), values[row])
        return values

    out = np.empty(tensor.entries, floats.numpy_type(tensor.dtype))
    for start, stop, merged in merged_pieces(merge, tensor.shape, read):
        floats.narrow(merged, tensor.dtype, out[start:stop])


def _blas_limits(plan: MergePlan) -> AbstractContextManager[None]:
    """Return what keeps products of matrices in their threads; it takes a while to load where there are none."""
    first = next((tensor for tensor in plan.tensors if not tensor.copied), None)
    if first is None:
        return nullcontext()
    merge = plan.method.function(first.task(plan.models, plan.seed), first.options)
    return nullcontext() if merge.rounds == 0 and merge.coefficients() is not None else single_threaded_blas()


class _Engine:
    def __init__(
        self, plan: MergePlan, models: Sequence[InputModel], writer: FolderWriter, progress: Progress
    ) -> None:
        self._plan, self._models, self._writer, self._progress = plan, models, writer, progress
        self._waiting: Iterator[PlannedTensor] = iter(plan.tensors)
        self._ready: deque[_Run] = deque()
        self._active = 0
        self._changed = threading.Condition()
        self._failure: BaseException | None = None

    def run(self, workers: int) -> None:
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers - 1)]
        for thread in threads:
            thread.start()
        try:
            self._work()
        except BaseException as error:  # an interrupt of the user's comes to this thread alone
            self._fail(error)
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        room = _Room()
        while (task := self._next()) is not None:
            try:
                if isinstance(task, _Run):
                    self._do(task, room)
                else:
                    self._begin(task)
            except BaseException as error:
                self._fail(error)
                return
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def _next(self) -> _Run | PlannedTensor | None:
        """Return the next thing to do, waiting while others may still bring some; None at the end."""
        with self._changed:
            while self._failure is None:
                task: _Run | PlannedTensor | None
                task = self._ready.popleft() if self._ready else next(self._waiting, None)
                if task is not None:
                    self._active += 1
                    return task
                if not self._active:
                    return None
                self._changed.wait()
            return None

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    # One tensor.

    def _begin(self, planned: PlannedTensor) -> None:
        if self._writer.done(planned.name):
            self._advance(planned.nbytes)
            return
        readers = tuple(self._models[origin.model].reader(origin.tensor) for origin in planned.origins)
        if planned.copied:
            self._writer.write(planned.name, readers[0](0, planned.entries).reshape(planned.shape))
            self._end(planned)
            return
        merge = self._plan.method.function(planned.task(self._plan.models, self._plan.seed), planned.options)
        columns = planned.shape[-1] if planned.shape else 1
        tensor = _Open(planned, merge, readers, columns)
        if planned.entries:
            self._queue(tensor)
        else:
            self._writer.write(planned.name, np.empty(planned.shape, floats.numpy_type(planned.dtype)))

    def _queue(self, tensor: _Open) -> None:
        """Hand out the runs of a pass over a tensor."""
        if tensor.round == tensor.merge.rounds:
            factors = tensor.merge.coefficients()
            tensor.factors = None if factors is None else [float(factor) for factor in factors]
        grain = "entry" if tensor.factors is not None else tensor.merge.grain
        places = cuts(tensor.planned.shape, grain, PIECE)
        pieces = [(number, start, stop) for number, (start, stop) in enumerate(places)]
        runs: list[_Run] = []
        begin, entries = 0, 0
        for number, start, stop in pieces:
            entries += stop - start
            if entries >= RUN or number == len(pieces) - 1:
                runs.append(_Run(tensor, tuple(pieces[begin : number + 1])))
                begin, entries = number + 1, 0
        tensor.left = len(runs)
        with self._changed:
            # Open tensors are finished before others are begun.
            self._ready.extendleft(reversed(runs))
            self._changed.notify_all()

    def _do(self, run: _Run, room: _Room) -> None:
        tensor = run.tensor
        if tensor.round == tensor.merge.rounds:
            self._combine(run, room)
        else:
            for number, start, stop in run.pieces:
                values = self._read(tensor, start, stop, room)
                tensor.observed[number] = tensor.merge.observe(tensor.round, Piece(start, values, tensor.columns))
        with self._changed:
            tensor.left -= 1
            last = tensor.left == 0
        if not last:
            return
        if tensor.round == tensor.merge.rounds:
            self._end(tensor.planned)
            return
        observed = [tensor.observed[number] for number in sorted(tensor.observed)]
        tensor.observed = {}
        tensor.merge.conclude(tensor.round, observed)
        tensor.round += 1
        self._queue(tensor)

    def _combine(self, run: _Run, room: _Room) -> None:
        tensor, planned = run.tensor, run.tensor.planned
        first, last = run.pieces[0][1], run.pieces[-1][2]
        out = room.array("out", last - first, floats.numpy_type(planned.dtype))
        for _, start, stop in run.pieces:
            if tensor.factors is None:
                values = self._read(tensor, start, stop, room)
                merged = tensor.merge.combine(Piece(start, values, tensor.columns))
                right = True
            else:
                merged = room.array("sum", stop - start, np.dtype(np.float32))
                right = True
                for number, (reader, factor) in enumerate(zip(tensor.readers, tensor.factors, strict=True)):
                    right &= floats.add(reader(start, stop), factor, number == 0, merged)
            if not floats.narrow(merged, planned.dtype, out[start - first : stop - first]) or not right:
                self._explain(tensor, start, stop, merged)
        self._writer.write_entries(planned.name, first, out)
        self._advance(out.nbytes)

    def _read(self, tensor: _Open, start: int, stop: int, room: _Room) -> np.ndarray:
        """Return a piece of every model as float32 [models, entries]."""
        count = len(tensor.readers)
        values = room.array("models", count * (stop - start), np.dtype(np.float32)).reshape(count, stop - start)
        for row, reader in enumerate(tensor.readers):
            if not floats.widen(reader(start, stop), values[row]):
                self._explain(tensor, start, stop, None)
        return values

    def _explain(self, tensor: _Open, start: int, stop: int, merged: np.ndarray | None) -> None:
        """Name the value that is not finite.

        Raises:
            WeightError: always.
        """
        planned = tensor.planned
        for origin, reader in zip(planned.origins, tensor.readers, strict=True):
            source = reader(start, stop)
            place = floats.first_not_finite(source)
            if place is not None:
                raise WeightError(
                    f"{self._plan.models[origin.model]}: {origin.tensor} holds {float(source[place])} at "
                    f"{_position(planned.shape, start + place)}; repair that model or take it out"
                )
        assert merged is not None
        limit = float(np.abs(merged).max())
        raise WeightError(
            f"{planned.name}: the merged values reach {limit:g}, beyond {planned.dtype}; choose another out_dtype "
            "or smaller weights"
        )

    def _end(self, planned: PlannedTensor) -> None:
        for origin in planned.origins:
            self._models[origin.model].done(origin.tensor)
        if planned.copied:
            self._advance(planned.nbytes)

    def _advance(self, nbytes: int) -> None:
        with self._changed:
            self._progress.advance(nbytes)


class _Room:
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


def _position(shape: tuple[int, ...], entry: int) -> list[int]:
    return [int(index) for index in np.unravel_index(entry, shape)]
