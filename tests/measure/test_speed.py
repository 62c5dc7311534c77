"""Torch's speed here, and the calls by which predictions are compared with real runs."""

from __future__ import annotations

import time

import pytest

torch = pytest.importorskip("torch", reason="forward passes")

from steelyard.measure import speed  # noqa: E402
from steelyard.weigh import machine  # noqa: E402


def test_products_are_products() -> None:
    for number, element in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        product = speed.TorchRunner().product(3, 5, 7, number)()
        assert product.dtype == element and torch.equal(product, torch.full((3, 7), 5.0, dtype=element))


def test_a_token_can_be_written_again_and_again() -> None:
    torch.manual_seed(0)
    model = speed._tiny(32)
    seen: list[int] = []
    hook = model.model.layers[0].self_attn.register_forward_hook(
        lambda module, given, named, out: seen.append(named["past_key_values"].get_seq_length()), with_kwargs=True
    )
    step = speed.next_token(model, 6)
    step()
    step()
    hook.remove()
    assert seen == [6, 7, 7]  # the text, then the same token twice
    assert len(model.model.layers) == 4


def test_this_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LARGE", 2**22)
    monkeypatch.setattr(machine, "WORKING_SETS", (2**20,))
    monkeypatch.setattr(machine, "FEW_ROWS", (8,))
    monkeypatch.setattr(machine, "_MATRICES", 1)
    device = speed.calibrate(time.process_time)
    assert device.kind == "local" and device.title.endswith("torch")
    assert 1e8 < device.bandwidth < 1e12 and 1e8 < device.peak["fp32"] < 1e14
    assert 1e-6 < device.kernel_seconds < 1e-1
    assert 0 <= device.element_seconds < 1e-5
    assert 1 <= device.cache_passes < 1000
