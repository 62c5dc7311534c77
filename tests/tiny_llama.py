"""Llama folders small enough to be made, fitted and written in a moment, without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def shapes(config: dict[str, Any] = CONFIG) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a config asks for."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    values = config["num_key_value_heads"] * config["head_dim"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        found |= {
            f"{block}self_attn.q_proj.weight": (hidden, hidden),
            f"{block}self_attn.k_proj.weight": (values, hidden),
            f"{block}self_attn.v_proj.weight": (values, hidden),
            f"{block}self_attn.o_proj.weight": (hidden, hidden),
            f"{block}mlp.gate_proj.weight": (inner, hidden),
            f"{block}mlp.up_proj.weight": (inner, hidden),
            f"{block}mlp.down_proj.weight": (hidden, inner),
            f"{block}input_layernorm.weight": (hidden,),
            f"{block}post_attention_layernorm.weight": (hidden,),
        }
    found["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (vocabulary, hidden)
    return found


def tensors(config: dict[str, Any], dtype: str) -> dict[str, np.ndarray]:
    """Random weights, the same ones every time; some columns are much larger than the others, as in real models."""
    draw = np.random.default_rng(11)
    made = {}
    for name, shape in shapes(config).items():
        if len(shape) == 1:
            array = 1 + 0.1 * draw.standard_normal(shape)
        else:
            array = draw.standard_normal(shape) * np.exp(draw.standard_normal(shape[1])) * shape[1] ** -0.5
        made[name] = array.astype(DTYPES[dtype])
    return made


def write_tiny(folder: Path, tied: bool = False, dtype: str = "float32", **changes: Any) -> Path:
    """Write a model folder; `changes` go into its config."""
    config = {**CONFIG, "tie_word_embeddings": tied, "dtype": dtype, **changes}
    folder.mkdir(parents=True)
    save_file(tensors(config, dtype), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "generation_config.json").write_text('{"bos_token_id": 1}')
    return folder


def split_into_shards(folder: Path, count: int = 3) -> list[str]:
    """Turn a folder's one weight file into several with an index; return their names."""
    from safetensors.numpy import load_file

    whole = folder / "model.safetensors"
    items = sorted(load_file(whole).items())
    whole.unlink()
    weight_map, files = {}, []
    for number in range(count):
        files.append(f"model-{number + 1:05d}-of-{count:05d}.safetensors")
        shard = dict(items[number::count])
        save_file(shard, folder / files[-1], metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, files[-1]))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return files


def image(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def digest(folder: Path) -> str:
    """One hash of every file below a folder, with its name."""
    found = hashlib.sha256()
    for name, data in sorted(image(folder).items()):
        found.update(f"{name}:{len(data)}:".encode() + data)
    return found.hexdigest()


def weight_bytes(folder: Path) -> int:
    """Bytes of the weight files and their index, as the file system counts them."""
    return sum(path.stat().st_size for path in folder.iterdir() if ".safetensors" in path.name)
