"""The merge on a Ray cluster: the units of work of the threads' engine, done by actors that open the models.

What travels are names and ranges of entries on the way out and merged entries on the way back, so that only this
process writes. Every node needs Steelyard, and the models under the names that the recipe has for them: on storage
that all share, or behind a URL.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steelyard.edits.merge import floats
from steelyard.edits.merge.dialect import MergeRecipe
from steelyard.edits.merge.engine import blas_limits, in_runs
from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.options import MergeOptions
from steelyard.edits.merge.plan import MergePlan
from steelyard.edits.merge.preflight import Prepared, prepare
from steelyard.edits.merge.work import Room, TensorWork, copied
from steelyard.errors import UserError
from steelyard.parallel import cpu_count
from steelyard.progress import SILENT, Progress
from steelyard.weights import FolderWriter

UNIT = 1 << 24
"""Entries of a unit, where a method needs no passes over the whole tensor first."""

_AHEAD = 2  # units that an actor has before it, so that it need not wait for the next


@dataclass(frozen=True)
class Request:
    """What an actor plans the merge from, as this process did.

    Attributes:
        recipe: what is asked.
        options: what else.
        places: folders that stand for names of models.
        where: what errors call the recipe.
        folder: that relative paths begin at.
    """

    recipe: MergeRecipe
    options: MergeOptions
    places: Mapping[str, str]
    where: str
    folder: str


@dataclass(frozen=True)
class Unit:
    """Entries [start, stop) of a tensor of the plan."""

    tensor: str
    start: int
    stop: int


class Worker:
    """What an actor does."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._room = Room()
        self._ready: Prepared | None = None

    def open(self, request: Request, plan_hash: str) -> None:
        """Open the models and plan the merge.

        Raises:
            UserError: if a model is not there, or another one than the process has that asks.
        """
        if os.path.isdir(request.folder):
            os.chdir(request.folder)
        ready = prepare(request.recipe, request.options, self._stack, places=request.places, where=request.where)
        if ready.plan.hash() != plan_hash:
            raise UserError(
                "a node of the cluster reads other models under the same names; put them on storage that all nodes "
                "share, or give URLs"
            )
        self._stack.enter_context(blas_limits(ready.plan, ready.models))
        self._ready = ready

    def merge(self, unit: Unit) -> np.ndarray:
        """Return the merged entries of a unit as bytes, uint8.

        Raises:
            WeightError: naming model, tensor and place of a value that is not finite.
        """
        assert self._ready is not None
        plan, models = self._ready.plan, self._ready.models
        planned = next(tensor for tensor in plan.tensors if tensor.name == unit.tensor)
        work = TensorWork(plan, planned, models)
        while not work.combining:
            work.pass_over(work.cuts(), self._room)
        places = [place for place in work.cuts() if unit.start <= place[0] < unit.stop]
        merged = work.entries(places, self._room).view(np.uint8)
        for origin in planned.origins:
            models[origin.model].done(origin.tensor)
        return merged


@dataclass
class _Actor:
    """An actor, and the units it has before it, by what stands for their results."""

    handle: Any
    units: dict[Any, Unit] = field(default_factory=dict)


def merge_on_ray(ready: Prepared, request: Request, writer: FolderWriter, progress: Progress = SILENT) -> None:
    """Merge every tensor of a plan that is not written yet, on a cluster.

    Args:
        ready: the merge as this process planned it.
        request: what actors plan it from.
        writer: of the result.
        progress: advanced by bytes of the result.

    Raises:
        UserError: without Ray, without a cluster, or as `merge_tensors`.
    """
    ray = _ray()
    options = request.options
    plan = ready.plan
    progress.start("merging", sum(tensor.nbytes for tensor in plan.tensors), "B")
    units = deque(_own_share(plan, ready.models, writer, progress))
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, options)
    actors: list[_Actor] = []
    try:
        count = options.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        kind = ray.remote(num_cpus=1)(Worker)
        actors = [_Actor(kind.remote()) for _ in range(min(count, max(1, len(units))))]
        if units:
            _get(ray, [actor.handle.open.remote(request, plan.hash()) for actor in actors])
        _Driver(ray, actors, units, ready, writer, progress).run()
    finally:
        for actor in actors:
            ray.kill(actor.handle)
        if mine:
            ray.shutdown()
    progress.finish()


class _Driver:
    """Hands units to actors and writes what comes back."""

    def __init__(
        self,
        ray: Any,
        actors: list[_Actor],
        units: deque[Unit],
        ready: Prepared,
        writer: FolderWriter,
        progress: Progress,
    ) -> None:
        self._ray, self._actors, self._units = ray, actors, units
        self._writer, self._progress = writer, progress
        self._dtypes = {tensor.name: floats.numpy_type(tensor.dtype) for tensor in ready.plan.tensors}

    def run(self) -> None:
        """Go on until every unit is written.

        Raises:
            UserError: as actors do, or if none is left.
        """
        while self._units or any(actor.units for actor in self._actors):
            self._hand_out()
            waiting = [result for actor in self._actors for result in actor.units]
            for result in self._ray.wait(waiting, num_returns=1)[0]:
                self._take(result)

    def _hand_out(self) -> None:
        if not self._actors:
            raise UserError("every worker of the cluster is lost; run the same command with --resume to go on")
        for _ in range(_AHEAD):
            for actor in self._actors:
                if self._units and len(actor.units) < _AHEAD:
                    unit = self._units.popleft()
                    actor.units[actor.handle.merge.remote(unit)] = unit

    def _take(self, result: Any) -> None:
        actor = next(actor for actor in self._actors if result in actor.units)
        try:
            data = _get(self._ray, result)
        except self._ray.exceptions.RayActorError:
            # The node is gone; others do what it had before it.
            self._units.extendleft(actor.units.values())
            self._actors.remove(actor)
            return
        unit = actor.units.pop(result)
        self._writer.write_entries(unit.tensor, unit.start, data.view(self._dtypes[unit.tensor]))
        self._progress.advance(data.nbytes)


def _own_share(
    plan: MergePlan, models: Sequence[InputModel], writer: FolderWriter, progress: Progress
) -> Iterator[Unit]:
    """Write what is only copied, and yield the units of everything else that is not written yet."""
    for planned in plan.tensors:
        if writer.done(planned.name):
            progress.advance(planned.nbytes)
        elif planned.copied:
            writer.write(planned.name, copied(planned, models))
            progress.advance(planned.nbytes)
        elif not planned.entries:
            writer.write(planned.name, np.empty(planned.shape, floats.numpy_type(planned.dtype)))
        else:
            work = TensorWork(plan, planned, models)
            runs = in_runs(work.cuts(), UNIT if work.combining else planned.entries)
            for run in runs:
                yield Unit(planned.name, run[0][0], run[-1][1])


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs Ray, which is not installed: pip install 'steelyard[ray]'") from None
    return ray


def _connect(ray: Any, options: MergeOptions) -> None:
    """Join the cluster that the options name, or start one of this machine's processors."""
    try:
        if options.cluster is not None:
            host, colon, port = options.cluster.rpartition(":")
            if colon and port.isdigit() and "://" not in host:
                # Ray itself waits for minutes for what does not answer.
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address=options.cluster, log_to_driver=False, logging_level="ERROR")
        else:
            ray.init(
                address="local",
                num_cpus=options.workers or cpu_count(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"no Ray cluster at {options.cluster or 'this machine'} ({reason}); start one with `ray start --head`"
        ) from None


def _get(ray: Any, result: Any) -> Any:
    """Return what actors made, or raise what went wrong there as it would be raised here."""
    try:
        return ray.get(result)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
