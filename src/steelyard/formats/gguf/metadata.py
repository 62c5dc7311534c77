"""The keys with which a GGUF file describes its model: sizes, constants and positions from config.json.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and llama.cpp's `llama-arch.cpp`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from steelyard.errors import UserError
from steelyard.formats.gguf.names import Family
from steelyard.spec import ModelSpec


class Uint16(int):
    """A whole number that is written as u16."""


class Int32(int):
    """A whole number that is written as i32."""


Value = str | bool | int | float | bytes | list[str] | list[int] | list[float]
"""Written as the type it has: whole numbers as u32 (in arrays i32), others as f32, bytes as an array of u8."""

QUANTIZATION_VERSION = 2
FACTORS = "rope_freqs.weight"
"""What GGUF calls the divisors of rotary frequencies."""

_LINEAR = ("gpt2", "gptneox", "bert")


def model_keys(spec: ModelSpec, family: Family) -> dict[str, Value]:
    """Return the keys that describe a model.

    Raises:
        UserError: if its positions are scaled in a way that GGUF has by tensors, or its activation is another.
    """
    assert spec.architecture is not None
    settings = spec.architecture.settings(spec.config)

    architecture = spec.architecture

    def size(axis: str) -> int:
        return architecture.axis_size(axis, settings)

    context = "position" if "position" in spec.architecture.sizes else ""
    heads, head_dim = size("head"), size("head_dim")
    keys: dict[str, Value] = {
        "context_length": size(context) if context else _first(spec.config, "max_position_embeddings", 2048),
        "embedding_length": size("hidden"),
        "block_count": size("layer"),
        "feed_forward_length": size("ffn"),
        "attention.head_count": heads,
        "vocab_size": size("vocab"),
    }
    if family.name in _LINEAR:
        names = ("layer_norm_eps", "layer_norm_epsilon")
        keys["attention.layer_norm_epsilon"] = float(
            _first(spec.config, names, 1e-12 if family.name == "bert" else 1e-5)
        )
    else:
        keys["attention.head_count_kv"] = size("kv_head")
        keys["attention.key_length"] = keys["attention.value_length"] = head_dim
        keys["attention.layer_norm_rms_epsilon"] = float(_first(spec.config, "rms_norm_eps", 1e-6))
        keys |= _rotary(spec.config, head_dim)
    if family.name == "gptneox":
        keys |= _rotary(spec.config, int(head_dim * float(_rotary_share(spec.config))))
        keys["use_parallel_residual"] = bool(_first(spec.config, "use_parallel_residual", True))
    if family.name == "bert":
        keys["attention.causal"] = False
        keys["pooling_type"] = 1  # the mean, as sentence encoders take it
    keys |= _experts(spec, family, size)
    _require_activation(spec, family)
    return {f"{family.name}.{key}": value for key, value in keys.items()}


def _experts(spec: ModelSpec, family: Family, size: Callable[[str], int]) -> dict[str, Value]:
    """Return how many experts there are and how wide; nothing for a model without any."""
    if family.normalizes is None or spec.architecture is None:
        return {}
    config, sizes = spec.config, spec.architecture.sizes
    if bool(config.get("norm_topk_prob", family.name == "llama")) != family.normalizes:
        does = "divides by their sum" if family.normalizes else "takes as they are"
        raise UserError(f"{family.name} in llama.cpp {does} the weights of the chosen experts, this model does not")
    if family.name == "qwen2moe" and spec.ties:
        raise UserError("llama.cpp takes a qwen2moe with a head of its own alone; this one's is its table")
    keys: dict[str, Value] = {
        "expert_count": size("expert"),
        "expert_used_count": int(_first(config, "num_experts_per_tok", 2)),
    }
    if "expert_ffn" in sizes:
        keys["expert_feed_forward_length"] = size("expert_ffn")
    if "shared_ffn" in sizes:
        keys["expert_shared_feed_forward_length"] = size("shared_ffn")
    return keys


def _rotary(config: Mapping[str, Any], dimensions: int) -> dict[str, Value]:
    scaling = rotary_settings(config)
    base = scaling.get("rope_theta") or config.get("rope_theta") or config.get("rotary_emb_base") or 10000.0
    keys: dict[str, Value] = {"rope.freq_base": float(base), "rope.dimension_count": dimensions}
    kind = _kind_of(scaling)
    if kind in ("linear", "yarn"):
        keys |= {"rope.scaling.type": kind, "rope.scaling.factor": float(scaling["factor"])}
    if kind == "yarn":
        keys |= _yarn(config, scaling)
    elif kind not in ("default", "linear", "llama3"):
        raise UserError(
            f"positions scaled by {kind!r} cannot be written to GGUF; default, linear, llama3 and yarn can"
        )
    return keys


def _yarn(config: Mapping[str, Any], scaling: Mapping[str, Any]) -> dict[str, Value]:
    """Return what YaRN needs beside its factor; llama.cpp multiplies by 1 + 0.1 ln(factor) by itself."""
    if scaling.get("mscale") or scaling.get("mscale_all_dim") or scaling.get("truncate") is False:
        raise UserError("YaRN with mscale or without truncation cannot be written to GGUF")
    if (scaling.get("beta_fast") or 32, scaling.get("beta_slow") or 1) != (32, 1):
        raise UserError("YaRN with betas other than 32 and 1 cannot be written to GGUF: llama.cpp has those alone")
    factor = float(scaling["factor"])
    usual = 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
    known = scaling.get("original_max_position_embeddings") or _first(config, "max_position_embeddings", 2048)
    keys: dict[str, Value] = {"rope.scaling.original_context_length": int(known)}
    wanted = scaling.get("attention_factor")
    if wanted is not None and not math.isclose(float(wanted), usual):
        keys["rope.scaling.attn_factor"] = float(wanted) / usual
    return keys


def rotary_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a config says of its rotary positions, in the words of either release of transformers."""
    return dict(config.get("rope_scaling") or {}) | dict(config.get("rope_parameters") or {})


def _kind_of(scaling: Mapping[str, Any]) -> str:
    return str(scaling.get("rope_type") or scaling.get("type") or "default")


def rotary_factors(spec: ModelSpec) -> np.ndarray | None:
    """Return by what each rotary frequency is divided where positions are scaled as in Llama 3.1, else None.

    Frequencies whose waves are shorter than the old context by `high_freq_factor` stay, those longer by less than
    `low_freq_factor` are divided by `factor`, those between by a mean of both that moves with the wave.

    Source: transformers' `_compute_llama3_parameters`; GGUF keeps the divisors in `rope_freqs.weight`.

    Returns:
        float32 [half of a head's size].
    """
    scaling = rotary_settings(spec.config)
    if spec.architecture is None or _kind_of(scaling) != "llama3":
        return None
    size = spec.architecture.axis_size("head_dim", spec.architecture.settings(spec.config))
    base = float(scaling.get("rope_theta") or spec.config.get("rope_theta") or 10000.0)
    factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    waves = 2 * np.pi * base ** (np.arange(0, size, 2, dtype=np.float64) / size)
    share = (float(scaling["original_max_position_embeddings"]) / waves - low) / (high - low)
    smooth = np.clip(share, 0.0, 1.0)
    divisors: np.ndarray = (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
    return divisors


def _rotary_share(config: Mapping[str, Any]) -> float:
    nested = dict(config.get("rope_parameters") or {})
    return float(nested.get("partial_rotary_factor") or _first(config, "rotary_pct", 0.25))


def _require_activation(spec: ModelSpec, family: Family) -> None:
    found = str(_first(spec.config, ("hidden_act", "activation_function"), ""))
    accepted = (
        ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "") if family.name in _LINEAR else ("silu", "")
    )
    if found not in accepted:
        raise UserError(f"the activation {found!r} is not what llama.cpp computes for {family.name}")


def _first(config: Mapping[str, Any], names: str | tuple[str, ...], default: Any) -> Any:
    for name in (names,) if isinstance(names, str) else names:
        if config.get(name) is not None:
            return config[name]
    return default
