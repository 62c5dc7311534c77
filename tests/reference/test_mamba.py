from __future__ import annotations

import json
from pathlib import Path

import pytest

from steelyard.reference.options import TrainOptions

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_a_mamba_learns_and_loads_in_transformers_with_the_logits_it_trained_to(
    tiny: TrainOptions, sources: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, MambaForCausalLM

    from steelyard.reference.export import export
    from steelyard.reference.train import Run

    options = tiny.model_copy(update={"architecture": "mamba", "state": 4})
    losses: list[float] = []
    run = Run(tmp_path / "run", options, sources=sources)
    run.train(lambda step: losses.append(step.loss))
    assert sum(losses[-4:]) / 4 < losses[0] - 0.5
    export(tmp_path / "run", tmp_path / "model", options)
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    tokens = options.steps * options.batch * options.sequence
    assert record["tokens_seen"] == tokens
    assert record["parameters"] == sum(parameter.numel() for parameter in run.model.parameters())
    assert record["tokens_per_parameter"] == round(tokens / record["parameters"], 3)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert isinstance(loaded, MambaForCausalLM)
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.copy_(parameter.bfloat16().float())
        ids = torch.arange(3, 20)[None]
        ours = run.model.eval()(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(loaded(input_ids=ids).logits, ours, rtol=1e-4, atol=1e-4)


def test_time_steps_begin_between_a_thousandth_and_a_tenth(tiny: TrainOptions) -> None:
    from steelyard.reference.network import build_model

    model = build_model(tiny.model_copy(update={"architecture": "mamba"}))
    mixer = model.backbone.layers[0].mixer
    steps = torch.nn.functional.softplus(mixer.dt_proj.bias.detach())
    assert 0.00099 < float(steps.min()) < 0.005 and 0.02 < float(steps.max()) < 0.1001
    torch.testing.assert_close(torch.exp(mixer.A_log[3]), torch.arange(1.0, 17.0))
