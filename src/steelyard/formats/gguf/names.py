"""GGUF's names and keys in the words of Hugging Face, for the architectures that have a table here.

Sources: llama.cpp's `llama-arch.cpp`, and gguf-py's `constants.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.spec import ModelSpec
from steelyard.spec.tensor import BUFFER

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
SWITCH = "router.shared"
"""The role of the row that weighs what all tokens share, [1, hidden]; GGUF has it as a vector."""

_EXPERT = re.compile(r"\.experts\.(\d+)\.")
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
_NUMBERS = {"attention.layer_norm_rms_epsilon": "rms_norm_eps", "rope.freq_base": "rope_theta"}


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
    for key, name in _NUMBERS.items():
        if isinstance(value := metadata.get(f"{architecture}.{key}"), float):
            config[name] = float(str(np.float32(value)))  # as it was written before it was a float32
    for name in ("bos", "eos"):
        if isinstance(value := metadata.get(f"tokenizer.ggml.{name}_token_id"), int):
            config[f"{name}_token_id"] = value
    if architecture == "llama" and "blk.0.attn_q.bias" in shapes:
        config["attention_bias"] = True
    if architecture == "llama" and "blk.0.ffn_up.bias" in shapes:
        config["mlp_bias"] = True
    config |= _scaling(metadata, architecture)
    config["architectures"] = [_CLASSES[architecture]]
    config["vocab_size"] = embedding[0]
    config["tie_word_embeddings"] = "output.weight" not in shapes
    return config


def _scaling(metadata: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """Return how rotary positions are scaled, if they are."""

    def value(key: str) -> Any:
        return metadata.get(f"{architecture}.rope.scaling.{key}")

    if value("type") not in ("linear", "yarn"):
        return {}
    found: dict[str, Any] = {"rope_type": value("type"), "factor": value("factor")}
    if value("original_context_length"):
        found["original_max_position_embeddings"] = value("original_context_length")
    if value("attn_factor"):
        found["attention_factor"] = value("attn_factor") * (0.1 * math.log(value("factor")) + 1.0)
    return {"rope_scaling": found}


@dataclass(frozen=True)
class Family:
    """How GGUF has one family of models.

    Attributes:
        name: of the architecture in GGUF.
        roles: GGUF's name of every role of a tensor.
        dropped: roles that GGUF's models do without.
        pairs: roles whose rows lie in pairs of halves: rotary positions turn neighbours in llama.cpp, halves here.
        interleaved: roles whose rows lie head by head as query, key and value, and in GGUF one after the other.
        normalizes: whether llama.cpp divides the weights of the chosen experts by their sum; None without experts.
    """

    name: str
    roles: Mapping[str, str]
    dropped: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    interleaved: tuple[str, ...] = ()
    normalizes: bool | None = None


_DECODER = {
    "embed.token": "token_embd",
    "embed.position": "position_embd",
    "norm.final": "output_norm",
    "head": "output",
    "norm.attn": "attn_norm",
    "norm.mlp": "ffn_norm",
    "attn.q": "attn_q",
    "attn.k": "attn_k",
    "attn.v": "attn_v",
    "attn.o": "attn_output",
    "attn.qkv": "attn_qkv",
    "attn.q_norm": "attn_q_norm",
    "attn.k_norm": "attn_k_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
}
_ENCODER = _DECODER | {
    "embed.type": "token_types",
    "norm.embed": "token_embd_norm",
    "norm.attn": "attn_output_norm",
    "norm.mlp": "layer_output_norm",
}
_ROUTED = {role: place for role, place in _DECODER.items() if not role.startswith("mlp.")} | {
    "router": "ffn_gate_inp",
    "expert.gate": "ffn_gate_exps",
    "expert.up": "ffn_up_exps",
    "expert.down": "ffn_down_exps",
    SWITCH: "ffn_gate_inp_shexp",
    "shared_expert.gate": "ffn_gate_shexp",
    "shared_expert.up": "ffn_up_shexp",
    "shared_expert.down": "ffn_down_shexp",
}
FAMILIES: dict[str, Family] = {
    "llama": Family("llama", _DECODER, pairs=("attn.q", "attn.k")),
    "mistral": Family("llama", _DECODER, pairs=("attn.q", "attn.k")),
    "qwen2": Family("qwen2", _DECODER),
    "qwen3": Family("qwen3", _DECODER),
    "mixtral": Family("llama", _ROUTED, pairs=("attn.q", "attn.k"), normalizes=True),
    "qwen2_moe": Family("qwen2moe", _ROUTED, normalizes=False),
    "qwen3_moe": Family("qwen3moe", _ROUTED, normalizes=True),
    "gpt2": Family("gpt2", _DECODER),
    "gpt_neox": Family("gptneox", _DECODER, interleaved=("attn.qkv",)),
    "bert": Family("bert", _ENCODER, dropped=("pooler",)),
}
"""By the model type of Hugging Face."""


def gguf_name(spec: ModelSpec, family: Family, name: str) -> str | None:
    """Return GGUF's name of a tensor; None if its models do without it.

    Args:
        spec: the model.
        family: of the model.
        name: of a tensor of the model, or of an alias of a tied one.

    Raises:
        KeyError: if GGUF has no place for it.
    """
    tensor = spec.tensors[spec.ties.get(name, name)]
    role = "head" if name in spec.ties and name not in spec.tensors else str(tensor.role)
    role, bias = (role.removesuffix(".bias"), "bias") if name.endswith(".bias") else (role, "weight")
    if role == BUFFER or role in family.dropped:
        return None
    place = family.roles[role]
    return f"{place}.{bias}" if tensor.layer is None else f"blk.{tensor.layer}.{place}.{bias}"


def expert_of(spec: ModelSpec, name: str) -> int | None:
    """Return which of a layer's experts a tensor belongs to; GGUF has those of a kind as one tensor, in order."""
    tensor = spec.tensors[spec.ties.get(name, name)]
    found = _EXPERT.search(name) if str(tensor.role).startswith("expert.") else None
    return None if found is None else int(found[1])


def expert_count(spec: ModelSpec) -> int:
    """Return how many experts a layer has."""
    assert spec.architecture is not None
    return spec.architecture.axis_size("expert", spec.architecture.settings(spec.config))


def row_order(spec: ModelSpec, family: Family, name: str) -> np.ndarray | None:
    """Return which row of the model's tensor each row of GGUF's is, int64 [rows]; None where they are in order."""
    tensor = spec.tensors[spec.ties.get(name, name)]
    role = str(tensor.role).removesuffix(".bias")
    if spec.architecture is None or role not in (*family.pairs, *family.interleaved):
        return None
    settings = spec.architecture.settings(spec.config)
    rows = np.arange(tensor.matrix_shape[0] if len(tensor.shape) == 2 else tensor.shape[0])
    heads = spec.architecture.axis_size("kv_head" if role == "attn.k" else "head", settings)
    if role in family.pairs:
        return rows.reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
    return rows.reshape(heads, 3, -1).swapaxes(0, 1).reshape(-1)
