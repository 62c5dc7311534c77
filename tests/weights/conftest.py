"""Small checkpoints on disk, written by the reference writer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file


def small_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tensors = {
        "model.embed_tokens.weight": rng.standard_normal((50, 8)).astype(ml_dtypes.bfloat16),
        "model.norm.weight": rng.standard_normal(8).astype(np.float32),
        "step": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "mask": rng.random((3, 5)) > 0.5,
    }
    for layer in range(11):
        tensors[f"model.layers.{layer}.mlp.down_proj.weight"] = rng.standard_normal((8, 24)).astype(np.float16)
        tensors[f"model.layers.{layer}.mlp.scale"] = rng.standard_normal(8).astype(ml_dtypes.float8_e4m3fn)
    return tensors


def write_shards(folder: Path, shards: list[Mapping[str, np.ndarray]]) -> None:
    """Write shards and their index the way transformers names them."""
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(dict(shard), folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_rest(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pool": "mean"}')


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    return small_tensors()


@pytest.fixture
def single(tmp_path: Path, tensors: dict[str, np.ndarray]) -> Path:
    folder = tmp_path / "single"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_rest(folder)
    return folder


@pytest.fixture
def sharded(tmp_path: Path, tensors: dict[str, np.ndarray]) -> Path:
    folder = tmp_path / "sharded"
    items = list(tensors.items())
    write_shards(folder, [dict(items[0::3]), dict(items[1::3]), dict(items[2::3])])
    write_rest(folder)
    return folder
