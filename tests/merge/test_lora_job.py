"""Adapters in recipes and on the command line: from folders to folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from merge.adapters import Golden
from merge.test_lora_extract import changed, product
from steelyard.budget.merge import merge_file
from steelyard.budget.merge_lora import merge_adapter
from steelyard.budget.quantize import QuantizeOptions, quantize_folder
from steelyard.cli import application
from steelyard.edits.merge.lora.extract import ExtractOptions, extract_lora
from steelyard.edits.merge.options import MergeOptions
from steelyard.formats.logical import LogicalCheckpoint

GOLDEN = Golden()


@pytest.mark.parametrize("case", ["magnitudes", "flipped_magnitudes", "saved"])
def test_a_folder_with_the_adapter_in_its_weights(case: str, tmp_path: Path) -> None:
    base, adapter = GOLDEN.write(tmp_path, case)
    made = merge_adapter(base, adapter, tmp_path / "out")
    found = load_file(made.out / "model.safetensors")
    expected = {**GOLDEN.base(case), **GOLDEN.group(f"{case}/merged")}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-6, atol=2e-6)


def test_the_same_adapter_in_a_recipe(tmp_path: Path) -> None:
    base, adapter = GOLDEN.write(tmp_path, "plain")
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [{"model": f"{base}+{adapter}", "parameters": {"weight": 0.25}}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    merge_file(tmp_path / "recipe.yaml", tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, before in GOLDEN.base("plain").items():
        after = GOLDEN.group("plain/merged").get(name, before)
        np.testing.assert_allclose(found[name], before + 0.25 * (after - before), atol=2e-6)


def test_an_adapter_on_a_quantized_base(tiny_llama: Path, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    reached = changed(tiny_llama, tmp_path / "reached", {name: product(64, 64, 2)})
    extract_lora(reached, tiny_llama, tmp_path / "adapter", ExtractOptions(rank=2))
    quantize_folder(tiny_llama, tmp_path / "packed", QuantizeOptions(bits=4, group_size=32, data="none"))
    merge_adapter(tmp_path / "packed", tmp_path / "adapter", tmp_path / "out", MergeOptions(dtype="float32"))
    found = load_file(tmp_path / "out" / "model.safetensors")
    with LogicalCheckpoint.open(tmp_path / "packed") as packed:
        for tensor, array in found.items():
            expected = packed.tensor(tensor).astype(np.float32)
            if tensor == name:
                expected = expected + product(64, 64, 2)
            np.testing.assert_allclose(array, expected, atol=1e-5)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter = GOLDEN.write(tmp_path, "plain")
    run = ["merge-lora", str(base), str(adapter), "--out", str(tmp_path / "merged"), "--json"]
    application.main(run, standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["tensors"] == len(GOLDEN.base("plain"))
    run = [
        "extract-lora",
        str(tmp_path / "merged"),
        "--base",
        str(base),
        "--rank",
        "4",
        "--out",
        str(tmp_path / "again"),
    ]
    application.main([*run, "--json"], standalone_mode=False)
    made = json.loads(capsys.readouterr().out)
    assert made["error"] < 1e-5
    assert [tensor["rank"] for tensor in made["tensors"]] == [4, 4]
    assert (tmp_path / "again" / "adapter_model.safetensors").stat().st_size == made["nbytes"]
