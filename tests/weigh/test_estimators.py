"""DeepSpeed's estimators give the figures that its own page prints."""

from __future__ import annotations

import pytest

from steelyard.errors import UserError
from steelyard.weigh.estimators import deepspeed_zero2, deepspeed_zero3, textbook_zero

# The page "Memory Requirements": a model of 2851M parameters, 32M in its largest layer, on a node of 8 devices.
PARAMETERS, LARGEST, DEVICES = 2851 * 10**6, 32 * 10**6, 8


def gigabytes(count: int) -> str:
    return f"{count / 2**30:.2f}"


@pytest.mark.parametrize(("offload", "host", "device"), [(True, "127.45", "5.31"), (False, "127.45", "15.93")])
def test_stage_two_as_published(offload: bool, host: str, device: str) -> None:
    estimate = deepspeed_zero2(PARAMETERS, DEVICES, offload=offload, as_published=True)
    assert (gigabytes(estimate.host), gigabytes(estimate.device)) == (host, device)


@pytest.mark.parametrize(
    ("optimizer", "parameters", "split", "host", "device"),
    [
        (True, True, True, "71.69", "0.12"),
        (True, True, False, "127.45", "0.12"),
        (True, False, True, "63.72", "0.78"),
        (True, False, False, "127.45", "0.78"),
        (False, False, True, "1.43", "6.09"),
        (False, False, False, "127.45", "6.09"),
    ],
)
def test_stage_three_as_published(optimizer: bool, parameters: bool, split: bool, host: str, device: str) -> None:
    estimate = deepspeed_zero3(
        PARAMETERS,
        LARGEST,
        DEVICES,
        offload_optimizer=optimizer,
        offload_parameters=parameters,
        built_split=split,
    )
    assert (gigabytes(estimate.host), gigabytes(estimate.device)) == (host, device)


def test_t5_large_as_published() -> None:
    total, largest = 737_668_096, 32_899_072
    cases = [
        deepspeed_zero3(total, largest, 4),
        deepspeed_zero3(total, largest, 4, offload_optimizer=True, offload_parameters=True),
        deepspeed_zero3(total, largest, 4, offload_optimizer=True),
    ]
    assert [case.device >> 20 for case in cases] == [3291, 125, 477]


def test_newer_releases_count_gradients_of_four_bytes_split() -> None:
    assert deepspeed_zero2(1000, 1).device == 20_000
    assert deepspeed_zero2(1000, 4).device == 2000 + 4500


# Figure 1 of the ZeRO paper: 7.5 billion parameters, 64 ranks.
@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_the_textbook(stage: int, gigabytes: float) -> None:
    assert round(textbook_zero(7_500_000_000, stage, 64).device / 1e9, 1) == gigabytes


def test_what_there_is_not() -> None:
    with pytest.raises(UserError, match="stage"):
        textbook_zero(1, 4, 1)
    with pytest.raises(UserError, match="together with the optimizer"):
        deepspeed_zero3(1, 1, 1, offload_parameters=True)
