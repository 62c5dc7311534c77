"""The largest trainable model, beside the papers' own figures and brute force."""

from __future__ import annotations

from itertools import pairwise

import pytest

from steelyard.errors import UserError
from steelyard.weigh.estimators import deepspeed_zero2, deepspeed_zero3, textbook_zero
from steelyard.weigh.trainable import STRATEGIES, Formulas, Shape, Trainable, largest_trainable, place


def on_dgx2(count: int, formulas: Formulas) -> dict[str, Trainable]:
    found = largest_trainable("v100-32gb", count=count, host_memory=1.5e12, nvme=28e12, formulas=formulas)
    return {result.strategy: result for result in found}


def test_the_papers_figures() -> None:
    # ZeRO-Infinity (2104.07857), figures 1 and 6: one DGX-2 with 16 V100 of 32 GB, 1.5 TB and 28 TB of NVMe trains
    # 1.4 billion parameters replicated, 13 billion with ZeRO-Offload, 20 billion with ZeRO-3, almost 100 billion
    # offloading to memory, a trillion offloading to NVMe.
    textbook, deepspeed = on_dgx2(16, "textbook"), on_dgx2(16, "deepspeed")
    published = {
        "replicated": 1.4e9,
        "zero-offload": 13e9,
        "zero-3": 20e9,
        "zero-infinity-host": 100e9,
        "zero-infinity-nvme": 1e12,
    }
    for strategy, size in published.items():
        nearest = min((textbook[strategy], deepspeed[strategy]), key=lambda found: abs(found.parameters - size))
        assert nearest.parameters == pytest.approx(size, rel=0.45), strategy
    assert [textbook[strategy].limit for strategy in STRATEGIES] == ["device", "device", "device", "host", "nvme"]


@pytest.mark.parametrize("formulas", ["textbook", "deepspeed"])
def test_nothing_larger_fits(formulas: Formulas) -> None:
    for strategy, found in on_dgx2(4, formulas).items():
        assert found.device_bytes <= 0.9 * 32 * 2**30
        assert found.host_bytes <= 1.5e12 and found.nvme_bytes <= 28e12
        # A shape one percent wider must break the limit that is named.
        low, high = 1.0, 1e6
        for _ in range(60):  # the width of that many parameters, by halving
            middle = (low + high) / 2
            low, high = (middle, high) if Shape(middle, 50257).parameters <= found.parameters else (low, middle)
        wider = place(found.strategy, Shape(low * 1.01, 50257), 4, 1, 1024, formulas)
        room = {"device": 0.9 * 32 * 2**30, "host": 1.5e12, "nvme": 28e12}
        assert wider[found.limit] > room[found.limit], strategy


def test_states_are_those_of_the_estimators() -> None:
    shape = Shape(4096, 32000)
    size, module = int(shape.parameters), int(shape.largest_module)
    left_over = shape.checkpoints(1024) + shape.working(1, 1024)
    for ranks in (1, 8):
        replicated = place("replicated", shape, ranks, 1, 1024, "textbook")["device"] - left_over
        assert replicated == pytest.approx(textbook_zero(size, 0, ranks).device)
        split = place("zero-3", shape, ranks, 1, 1024, "textbook")["device"] - left_over - 4 * module
        assert split == pytest.approx(textbook_zero(size, 3, ranks).device, abs=16)
        split = place("zero-3", shape, ranks, 1, 1024, "deepspeed")["device"] - left_over
        assert split == pytest.approx(deepspeed_zero3(size, module, ranks).device)
        offload = place("zero-offload", shape, ranks, 1, 1024, "deepspeed")
        expected = deepspeed_zero2(size, ranks, offload=True)
        assert offload["host"] == pytest.approx(expected.host)
        assert offload["device"] - left_over == pytest.approx(expected.device)
        infinity = place("zero-infinity-host", shape, ranks, 1, 1024, "deepspeed")
        both = deepspeed_zero3(size, module, ranks, offload_optimizer=True, offload_parameters=True)
        assert infinity["host"] - ranks * shape.checkpoints(1024) == pytest.approx(both.host)
        assert infinity["device"] - shape.working(1, 1024) == pytest.approx(both.device)


def test_more_room_never_trains_less() -> None:
    sizes = [
        [found.parameters for found in largest_trainable("t4", host_memory=host, nvme=nvme)]
        for host, nvme in ((0, 0), (64e9, 0), (64e9, 1e12), (256e9, 8e12))
    ]
    for smaller, larger in pairwise(sizes):
        assert all(a <= b for a, b in zip(smaller, larger, strict=True))
    assert sizes[0][2:] == [0, 0, 0]  # nowhere to offload to


def test_absurd_numbers_are_one_line() -> None:
    with pytest.raises(UserError, match="sequence must be at least 1"):
        largest_trainable("t4", host_memory=1e9, sequence=0)
    with pytest.raises(UserError, match="below zero"):
        largest_trainable("t4", host_memory=-1)


def test_a_processor_is_its_own_host() -> None:
    # Offloading to the same memory gains nothing; only disks do.
    found = {result.strategy: result for result in largest_trainable("desktop-ddr5", nvme=2e12)}
    assert found["zero-offload"].parameters == found["replicated"].parameters
    assert found["zero-infinity-nvme"].parameters > 5 * found["replicated"].parameters
    assert all(result.host_bytes == 0 for result in found.values())
