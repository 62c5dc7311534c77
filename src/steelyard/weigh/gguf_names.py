"""GGUF's names and keys in the words of Hugging Face, for the architectures that have a table here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# What GGUF calls an architecture, and the table that describes it.
_TABLES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)")
_TOP = re.compile(r"([a-z_]+)\.(weight|bias)")

_KEYS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
}


def hub_name(name: str) -> str:
    """Return the name of Hugging Face for a tensor of GGUF; the name itself where none is known."""
    block = _BLOCK.fullmatch(name)
    if block and block[2] in _NAMES:
        return f"model.layers.{block[1]}.{_NAMES[block[2]]}.{block[3]}"
    top = _TOP.fullmatch(name)
    return f"{_NAMES[top[1]]}.{top[2]}" if top and top[1] in _NAMES else name


def hub_config(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the config that GGUF's keys amount to; only the model type where there is no table for it.

    Args:
        metadata: the keys of the file.
        shapes: of every tensor, by GGUF's names.
    """
    architecture = str(metadata.get("general.architecture") or "")
    model_type = _TABLES.get(architecture, architecture)
    config: dict[str, Any] = {"model_type": model_type} if model_type else {}
    embedding = shapes.get("token_embd.weight")
    if architecture not in _TABLES or embedding is None or any("_exps" in name for name in shapes):
        return {"model_type": f"gguf:{architecture}"} if architecture else {}
    for key, name in _KEYS.items():
        value = metadata.get(f"{architecture}.{key}")
        if isinstance(value, int):
            config[name] = value
    config["architectures"] = [_CLASSES[architecture]]
    config["vocab_size"] = embedding[0]
    config["tie_word_embeddings"] = "output.weight" not in shapes
    return config
