"""Threads over independent items; results keep the order of the items."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cpu_count() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_threads(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> list[Result]:
    """Apply `function` to every item in threads and return the results in order.

    Meant for functions that release the interpreter lock (numba kernels, numpy, file reads). The first
    exception is raised; items not yet begun are then dropped.
    """
    work = list(items)
    count = min(workers or cpu_count(), len(work))
    if count <= 1:
        return [function(item) for item in work]
    with ThreadPoolExecutor(max_workers=count) as pool:
        futures = [pool.submit(function, item) for item in work]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def stream_threads(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Yield `function` of every item in order, worked out in threads no more than `workers` items ahead.

    For results too large to hold all at once. The first exception is raised where its result was due; items not
    yet begun are then dropped, as they are when the caller stops asking.
    """
    count = workers or cpu_count()
    if count <= 1:
        yield from map(function, items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(max_workers=count) as pool:
        pending: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(remaining, count))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def single_threaded_blas(compiled: bool = True) -> Iterator[None]:
    """Keep matrix products within the thread that asks for them, for work that has threads of its own.

    Args:
        compiled: whether compiled kernels may multiply too; their library takes a while to load.

    Threads of a product wait for each other by spinning: beside other work that costs many times the product, and
    the order of its sums then depends on the number of processors. Applies to numpy and scipy, not to torch.
    """
    if compiled:
        import scipy.linalg  # noqa: F401  (loads the library that compiled kernels multiply with)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield
