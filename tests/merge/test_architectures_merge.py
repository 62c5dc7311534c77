"""Models of every architecture in the house are merged, and their layers stacked, into models that read as such."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import steelyard as sy
from contracts.test_registries import small_config
from merge.siblings import config_of, wide
from steelyard.jobs import open_model
from steelyard.spec import architectures


def write(folder: Path, config: dict[str, Any], seed: int) -> Path:
    """Write a model of random weights with the tensors that its config asks for."""
    draw = np.random.default_rng(seed)
    shapes = architectures()[config["model_type"]].expected_shapes(config)
    folder.mkdir()
    tensors = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("model_type", architectures())
def test_every_architecture_is_merged(model_type: str, tmp_path: Path) -> None:
    config = small_config(model_type)
    one, two = write(tmp_path / "one", config, 1), write(tmp_path / "two", config, 2)
    models = [{"model": str(one), "parameters": {"weight": [1, 0]}}, {"model": str(two)}]
    sy.merge({"models": models, "merge_method": "linear"}, out=tmp_path / "out")
    with open_model(tmp_path / "out") as opened, open_model(one) as source:
        assert opened.spec.tensors.keys() == source.spec.tensors.keys()
        stacks = architectures()[model_type].stacks_of(config)
        first, last = wide(one), wide(two)
        merged = wide(tmp_path / "out")
        for name, tensor in source.spec.tensors.items():
            stack = next(
                (s for s in stacks if tensor.layer is not None and 0 <= tensor.layer - s.before < s.blocks), None
            )
            depth = 0.0
            if stack is not None and tensor.layer is not None:
                depth = (tensor.layer - stack.before) / (stack.blocks - 1) if stack.blocks > 1 else 1.0
            weight = 1 - depth
            right = (weight * first[name] + last[name]) / (weight + 1)
            np.testing.assert_allclose(merged[name], right, rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(
    "model_type", ["llama", "gpt2", "bert", "mixtral", "qwen3", "gemma2", "mamba", "opt", "phi3"]
)
def test_layers_are_stacked(model_type: str, tmp_path: Path) -> None:
    config = small_config(model_type)
    one = write(tmp_path / "one", config, 1)
    with open_model(one) as source:
        layers, names = source.spec.n_layers, list(source.spec.tensors)
        inside = sum(tensor.layer is not None for tensor in source.spec.tensors.values())
    part = {"sources": [{"model": str(one), "layer_range": [0, layers]}]}
    sy.merge({"slices": [part, part], "merge_method": "passthrough"}, out=tmp_path / "out")
    with open_model(tmp_path / "out") as opened:
        assert opened.spec.n_layers == 2 * layers
        assert len(opened.spec.tensors) == len(names) + inside
    assert config_of(tmp_path / "out") != config


def test_stacks_of_layers_are_modules(tmp_path: Path) -> None:
    config = small_config("bart")
    one, two = write(tmp_path / "one", config, 1), write(tmp_path / "two", config, 2)
    layers = config["encoder_layers"]
    part = {"sources": [{"model": str(one), "layer_range": [0, layers]}]}
    modules = {
        "encoder": {"slices": [part, part]},
        "decoder": {"models": [{"model": str(two)}]},
    }
    recipe = {"modules": modules, "merge_method": "linear"}
    sy.merge(recipe, out=tmp_path / "out")
    made = config_of(tmp_path / "out")
    assert made["encoder_layers"] == 2 * layers and made["decoder_layers"] == config["decoder_layers"]
    first, last, merged = wide(one), wide(two), wide(tmp_path / "out")
    for name, array in merged.items():
        if ".decoder.layers." in name:
            assert np.array_equal(array, last[name])
        elif f".encoder.layers.{layers}." in name:
            assert np.array_equal(array, first[name.replace(f".layers.{layers}.", ".layers.0.")])
    with pytest.raises(sy.UserError, match=r"no module for the layers model\.decoder"):
        sy.merge({**recipe, "modules": {"encoder": modules["encoder"]}}, out=tmp_path / "again")
    with pytest.raises(sy.UserError, match="list the slices of each under modules"):
        sy.merge({"slices": [part], "merge_method": "linear"}, out=tmp_path / "again")
