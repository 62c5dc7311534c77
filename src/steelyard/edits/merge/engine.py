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
from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.pieces import merged_pieces
from steelyard.edits.merge.plan import MergePlan, PlannedTensor
from steelyard.edits.merge.work import Place, Room, TensorWork, copied
from steelyard.parallel import cpu_count, single_threaded_blas
from steelyard.progress import SILENT, Progress
from steelyard.weights import FolderWriter

RUN = 1 << 20
"""Entries that a worker takes at a time."""


@dataclass
class _Open:
    """A tensor that is being merged.

    Attributes:
        work: what it is and how it is merged.
        left: runs of this pass that are not done.
        observed: what was seen in this pass, by piece.
    """

    work: TensorWork
    left: int = 0
    observed: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Run:
    """Pieces of an open tensor that one worker does in a row."""

    tensor: _Open
    places: tuple[Place, ...]


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
    with blas_limits(plan, models):
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


def blas_limits(plan: MergePlan, models: Sequence[InputModel]) -> AbstractContextManager[None]:
    """Return what keeps products of matrices in their threads; it takes a while to load where there are none."""
    first = next((tensor for tensor in plan.tensors if not tensor.copied), None)
    if first is None:
        return nullcontext()
    merge = plan.method.function(first.task(plan.models, plan.seed), first.options)
    decodes = any(models[origin.model].resident(origin.tensor) for t in plan.tensors for origin in t.origins)
    if merge.rounds == 0 and merge.coefficients() is not None and not decodes:
        return nullcontext()
    # Codecs may multiply in compiled kernels; methods multiply in numpy alone.
    return single_threaded_blas(compiled=decodes)


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
        room = Room()
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
        elif planned.copied:
            self._writer.write(planned.name, copied(planned, self._models))
            self._end(planned)
        elif planned.entries:
            self._queue(_Open(TensorWork(self._plan, planned, self._models)))
        else:
            self._writer.write(planned.name, np.empty(planned.shape, floats.numpy_type(planned.dtype)))

    def _queue(self, tensor: _Open) -> None:
        """Hand out the runs of a pass over a tensor."""
        runs = [_Run(tensor, places) for places in in_runs(tensor.work.cuts(), RUN)]
        tensor.left = len(runs)
        with self._changed:
            # Open tensors are finished before others are begun.
            self._ready.extendleft(reversed(runs))
            self._changed.notify_all()

    def _do(self, run: _Run, room: Room) -> None:
        tensor, work = run.tensor, run.tensor.work
        if work.combining:
            self._combine(run, room)
        else:
            for place in run.places:
                tensor.observed[place[0]] = work.observe(place, room)
        with self._changed:
            tensor.left -= 1
            last = tensor.left == 0
        if not last:
            return
        if work.combining:
            self._end(work.planned)
            return
        observed = [tensor.observed[start] for start in sorted(tensor.observed)]
        tensor.observed = {}
        work.conclude(observed)
        self._queue(tensor)

    def _combine(self, run: _Run, room: Room) -> None:
        work, planned = run.tensor.work, run.tensor.work.planned
        first, last = run.places[0][0], run.places[-1][1]
        out = room.array("out", last - first, floats.numpy_type(planned.dtype))
        for start, stop in run.places:
            work.combine((start, stop), room, out[start - first : stop - first])
        self._writer.write_entries(planned.name, first, out)
        self._advance(out.nbytes)

    def _end(self, planned: PlannedTensor) -> None:
        for origin in planned.origins:
            self._models[origin.model].done(origin.tensor)
        if planned.copied:
            self._advance(planned.nbytes)

    def _advance(self, nbytes: int) -> None:
        with self._changed:
            self._progress.advance(nbytes)


def in_runs(places: Sequence[Place], entries: int) -> Iterator[tuple[Place, ...]]:
    """Yield neighbouring pieces together, at least that many entries at a time but for the last."""
    begin, held = 0, 0
    for number, (start, stop) in enumerate(places):
        held += stop - start
        if held >= entries or number == len(places) - 1:
            yield tuple(places[begin : number + 1])
            begin, held = number + 1, 0
