"""A quantized Mamba is loaded by transformers and computes with the decoded weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=96, hidden_size=64, num_hidden_layers=2, state_size=4, time_step_rank=32, dtype="bfloat16"
    )
    model = transformers.MambaForCausalLM(config).bfloat16()
    path = tmp_path_factory.mktemp("mamba") / "base"
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize("format", ["steelyard", "compressed-tensors"])
def test_transformers_loads_it_and_computes_with_the_decoded_weights(
    format: Any, folder: Path, tmp_path: Path
) -> None:
    from steelyard.budget.quantize import QuantizeOptions, quantize_folder
    from steelyard.formats.logical import LogicalCheckpoint

    if format == "compressed-tensors":
        pytest.importorskip("compressed_tensors")
    options = QuantizeOptions(bits=4, group_size=32, format=format)
    made = quantize_folder(folder, tmp_path / "out", options)
    # transformers multiplies with the time steps' weight itself, and gives the last map's a first value.
    left = {"dt_proj"} | ({"out_proj"} if format == "compressed-tensors" else set())
    kept = {name.split(".")[-2] for name in made.kept} - {"embeddings"}
    assert kept == left
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    written = LogicalCheckpoint.open(tmp_path / "out")
    changed = 0
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            value = torch.from_numpy(np.float32(written.tensor(name))).bfloat16()
            changed += not torch.equal(parameter, value)
            parameter.copy_(value)
        tokens = torch.arange(3, 20)[None]
        torch.testing.assert_close(loaded(tokens).logits, plain(tokens).logits, rtol=0.02, atol=0.02)
        assert loaded.generate(tokens[:, :4], max_new_tokens=3, do_sample=False).shape == (1, 7)
    assert changed == made.encoded


def test_fit_spends_a_budget_on_a_mamba_and_transformers_loads_the_result(folder: Path, tmp_path: Path) -> None:
    import steelyard as sy

    sy.fit(
        folder,
        out=tmp_path / "out",
        bits=5,
        format="steelyard",
        effort="quick",
        sequences=2,
        sequence_length=16,
        eval_sequences=2,
        compare_formats=False,
    )
    files = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    parameters = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_pretrained(folder).parameters())
    assert files <= 5 * parameters / 8
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    mixer = loaded.backbone.layers[0].mixer
    assert type(mixer.out_proj).__name__ == "PackedLinear" and type(mixer.dt_proj) is torch.nn.Linear
    with torch.no_grad():
        assert torch.isfinite(loaded(torch.arange(3, 20)[None]).logits).all()
