"""Small configs of one architecture in several widths, for models that train in a moment."""

from __future__ import annotations

from typing import Any

from steelyard.errors import UserError
from steelyard.spec import ModelSpec

WIDTH = 32
VOCABULARY = 64
POSITIONS = 16
_HEADS = 4
DEPTH = 2

# What depends on the sizes of the original, or names tokens that the small vocabulary lacks.
_DROPPED = ("layer_types", "rope_scaling", "rope_parameters", "quantization_config", "torch_dtype", "pad_token_id")


def member(spec: ModelSpec, times: int, deeper: int = 1, larger_heads: bool = False) -> ModelSpec:
    """Return the spec of a small model with everything of another but its sizes.

    Args:
        spec: the model.
        times: how many times as wide as the smallest.
        deeper: how many times as deep.
        larger_heads: let heads grow instead of their number.

    Raises:
        UserError: if models of this kind cannot be made small here.
    """
    architecture = spec.require_axes("the coordinate check")
    if spec.task != "causal" or any(tensor.role == "router" for tensor in spec.tensors.values()):
        raise UserError(f"the coordinate check trains dense causal models, which {spec.model_type!r} is not")
    head, heads = (WIDTH // _HEADS * times, _HEADS) if larger_heads else (WIDTH // _HEADS, _HEADS * times)
    fewer = spec.config.get("num_key_value_heads") not in (None, spec.config.get("num_attention_heads"))
    sizes = {
        **dict.fromkeys(("hidden_size", "n_embd", "word_embed_proj_dim"), WIDTH * times),
        **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"), 3 * WIDTH * times),
        **dict.fromkeys(("num_attention_heads", "n_head"), heads),
        **dict.fromkeys(("num_key_value_heads",), heads // 2 if fewer else heads),
        **dict.fromkeys(("num_hidden_layers", "n_layer"), DEPTH * deeper),
        **dict.fromkeys(("max_position_embeddings", "n_positions"), POSITIONS),
        "head_dim": head,
        "query_pre_attn_scalar": head,
        "vocab_size": VOCABULARY,
        "initializer_range": WIDTH**-0.5,
    }
    keys = set(architecture.defaults) | set(spec.config)
    config: dict[str, Any] = {key: value for key, value in spec.config.items() if key not in _DROPPED}
    config |= {key: value for key, value in sizes.items() if key in keys}
    config |= {"initializer_range": WIDTH**-0.5, "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32"}
    made = ModelSpec.from_config(config)
    hidden = architecture.axis_size("hidden", architecture.settings(config))
    if hidden != WIDTH * times:
        raise UserError(f"the coordinate check does not know which keys make a {spec.model_type!r} wider")
    return made
