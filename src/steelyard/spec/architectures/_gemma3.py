"""Gemma 3's decoder as rows; two tables are made of them: of the text's model and of the one that sees images."""

from __future__ import annotations

from steelyard.spec.architecture import Size
from steelyard.spec.cache import Window, alternating_window
from steelyard.spec.rules import Rule, Shared, embedding, linear, norm, rules

DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "attention_bias": False,
    "sliding_window": 4096,
    "sliding_window_pattern": None,
    "layer_types": None,
}


def sizes(config: str = "") -> dict[str, Size]:
    """Lengths of the axes.

    Args:
        config: start of its keys: "text_config." where they stand in a config of their own.
    """
    heads = f"{config}num_attention_heads"
    return {
        "layer": f"{config}num_hidden_layers",
        "vocab": f"{config}vocab_size",
        "hidden": f"{config}hidden_size",
        "ffn": f"{config}intermediate_size",
        "head": heads,
        "kv_head": lambda s: s.size_or_none(f"{config}num_key_value_heads") or s.size(heads),
        "head_dim": lambda s: (
            s.size_or_none(f"{config}head_dim") or s.size(f"{config}hidden_size") // s.size(heads)
        ),
    }


def window(config: str = "") -> Window:
    """The window of five layers of six; older configs give the number of layers from one without to the next."""
    return alternating_window(lambda s: s.size_or_none(f"{config}sliding_window_pattern") or 6, config)


def decoder(start: str, config: str = "") -> tuple[Rule, ...]:
    """Return the rows from the embedding to the last norm.

    Args:
        start: of the names.
        config: see `sizes`.
    """
    block, bias = f"{start}layers.{{layer}}.", f"{config}attention_bias"
    attention, mlp = f"{block}self_attn", f"{block}mlp"
    qkv = Shared(codec=f"{attention}.qkv", input=f"{attention}.q_proj")
    gate_up = Shared(codec=f"{mlp}.gate_up", input=f"{mlp}.gate_proj")
    return rules(
        embedding(f"{start}embed_tokens", "embed.token", "vocab", "hidden"),
        norm(f"{block}input_layernorm", "norm.attn", "hidden"),
        linear(f"{attention}.q_proj", "attn.q", "head*head_dim", "hidden", bias=bias, shared=qkv),
        linear(f"{attention}.k_proj", "attn.k", "kv_head*head_dim", "hidden", bias=bias, shared=qkv),
        linear(f"{attention}.v_proj", "attn.v", "kv_head*head_dim", "hidden", bias=bias, shared=qkv),
        norm(f"{attention}.q_norm", "attn.q_norm", "head_dim"),
        norm(f"{attention}.k_norm", "attn.k_norm", "head_dim"),
        linear(f"{attention}.o_proj", "attn.o", "hidden", "head*head_dim", bias=bias),
        norm(f"{block}post_attention_layernorm", "norm.attn.out", "hidden"),
        norm(f"{block}pre_feedforward_layernorm", "norm.mlp", "hidden"),
        linear(f"{mlp}.gate_proj", "mlp.gate", "ffn", "hidden", shared=gate_up),
        linear(f"{mlp}.up_proj", "mlp.up", "ffn", "hidden", shared=gate_up),
        linear(f"{mlp}.down_proj", "mlp.down", "hidden", "ffn"),
        norm(f"{block}post_feedforward_layernorm", "norm.mlp.out", "hidden"),
        norm(f"{start}norm", "norm.final", "hidden"),
    )
