"""Threads over independent items; results keep the order of the items."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
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
