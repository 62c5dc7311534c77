"""Tiny models of every family that can be aligned, with all weights drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from steelyard.spec import ModelSpec

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 96,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 96,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 3,
        "n_positions": 64,
        "vocab_size": 96,
    },
    "bert": {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 64,
        "vocab_size": 96,
    },
    "encoder": {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 64,
        "vocab_size": 96,
    },
}


def draw(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Every tensor a config asks for, drawn."""
    random = np.random.default_rng(seed)
    return {
        tensor.name: ((len(tensor.shape) == 1) + 0.3 * random.standard_normal(tensor.shape)).astype(np.float32)
        for tensor in ModelSpec.from_config(config).tensors.values()
        if tensor.role != "buffer"
    }


def write(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "config.json").write_text(json.dumps({"dtype": "float32", **config}))
    return folder


def family(folder: Path, name: str, seed: int = 0, **changes: Any) -> Path:
    config = {**FAMILIES[name], **changes}
    return write(folder, config, draw(config, seed))
