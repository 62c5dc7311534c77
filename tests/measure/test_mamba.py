"""Our scan and mixer beside transformers' own, and what is gathered from a Mamba beside a plain computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=60, hidden_size=24, num_hidden_layers=2, state_size=5, time_step_rank=3, use_bias=True
    )
    return transformers.MambaForCausalLM(config).eval()


def logits_and_gradients(model: Any, tokens: Any) -> tuple[Any, dict[str, Any]]:
    model.zero_grad()
    logits = model(input_ids=tokens, use_cache=False).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    return logits.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_outputs_and_gradients_are_those_of_transformers(model: Any) -> None:
    from steelyard.measure.mamba import use_fast_mixers

    tokens = torch.randint(0, 60, (3, 17))
    plain, plain_gradients = logits_and_gradients(model, tokens)
    mixers = [block.mixer for block in model.backbone.layers]
    use_fast_mixers(model)
    try:
        fast, fast_gradients = logits_and_gradients(model, tokens)
    finally:
        for mixer in mixers:
            del mixer.forward
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("together", [1, 1 << 16])
def test_the_scan_equals_its_recurrence_in_float64(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.measure import selective_scan as module

    monkeypatch.setattr(module, "_TOGETHER", together)
    draw = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    u, b, c, wanted = normal(3, 9, 4), normal(3, 9, 2), normal(3, 9, 2), normal(3, 9, 4)
    step, decay = normal(3, 9, 4).exp(), -normal(4, 2).exp()
    arguments = [x.requires_grad_(True) for x in (u, step, decay, b, c)]

    def recurrence() -> Any:
        h = torch.zeros(3, 4, 2, dtype=torch.float64)
        outputs = []
        for t in range(9):
            now = step[:, t, :, None]
            h = torch.exp(now * decay) * h + now * b[:, t, None, :] * u[:, t, :, None]
            outputs.append((h * c[:, t, None, :]).sum(-1))
        return torch.stack(outputs, 1)

    plain, fast = recurrence(), module.selective_scan(*arguments)
    torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)
    first = torch.autograd.grad(plain, arguments, wanted)
    second = torch.autograd.grad(fast, arguments, wanted)
    for x, y in zip(first, second, strict=True):
        torch.testing.assert_close(y, x, rtol=1e-11, atol=1e-11)


def test_masked_tokens_do_not_enter_the_states(model: Any) -> None:
    from steelyard.measure.mamba import use_fast_mixers

    tokens = torch.randint(1, 60, (2, 8))
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    with torch.no_grad():
        plain = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        mixers = [block.mixer for block in model.backbone.layers]
        use_fast_mixers(model)
        fast = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        for mixer in mixers:
            del mixer.forward
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)


def test_what_enters_the_time_steps_is_gathered(model: Any, tmp_path: Path) -> None:
    """The second moment of dt_proj's input, which transformers never gives the module, from x_proj's outputs."""
    from steelyard.measure.calibration import CalibrationOptions
    from steelyard.measure.collect import collect
    from steelyard.measure.model import open_model
    from steelyard.measure.windows import IGNORED, TokenSet, Window

    folder = tmp_path / "mamba"
    model.save_pretrained(folder)
    tokens = np.random.default_rng(0).integers(0, 60, (4, 12))
    windows = tuple(Window(i, row, np.append(row[1:], IGNORED), None) for i, row in enumerate(tokens))
    opened = open_model(folder)
    data = TokenSet(tuple("abcd"), windows, "drawn", tuple("abcd"))
    found = collect(opened, data, tmp_path / "statistics.safetensors", CalibrationOptions(batch_tokens=24))
    seen = []
    handle = model.backbone.layers[0].mixer.x_proj.register_forward_hook(
        lambda m, a, out: seen.append(out[..., :3])
    )
    with torch.no_grad():
        model(input_ids=torch.from_numpy(tokens), use_cache=False)
    handle.remove()
    x = seen[0].flatten(0, 1).double()
    name = "backbone.layers.0.mixer.dt_proj.weight"
    np.testing.assert_allclose(found.second_moment(name), (x.T @ x / len(x)).numpy(), rtol=1e-4, atol=1e-6)
