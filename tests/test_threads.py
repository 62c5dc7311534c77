from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from steelyard.parallel import map_threads, single_threaded_blas, stream_threads


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_streamed_results_keep_their_order_and_stay_few(workers: int) -> None:
    started: list[int] = []
    taken = 0

    def work(item: int) -> int:
        started.append(item)
        time.sleep(0.002 * (item % 3))
        return item * item

    for place, result in enumerate(stream_threads(work, iter(range(20)), workers)):
        assert result == place * place
        taken += 1
        assert len(started) <= taken + workers
    assert taken == 20


def test_a_failure_is_raised_where_its_result_was_due() -> None:
    began: list[int] = []

    def work(item: int) -> int:
        began.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    results = stream_threads(work, range(100), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert len(began) < 100


def test_a_caller_may_stop_asking() -> None:
    results = stream_threads(lambda item: item, range(1000), 2)
    assert next(results) == 0
    results.close()
    assert threading.active_count() < 50


def test_products_stay_in_the_thread_that_asks() -> None:
    from threadpoolctl import threadpool_info

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    np.ones((4, 4)) @ np.ones((4, 4))
    before = threads()
    with single_threaded_blas():
        assert threads() == {1}
        assert map_threads(lambda _: threads(), range(4)) == [{1}] * 4
    assert threads() == before
