"""Gemma 3: Gemma 2 with norms on queries and keys; five layers with a window to one without."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache, alternating_window
from steelyard.spec.compute import Attention
from steelyard.spec.rules import Shared, buffer, embedding, linear, norm, rules

_ATTENTION = "model.layers.{layer}.self_attn"
_MLP = "model.layers.{layer}.mlp"
_QKV = Shared(codec=f"{_ATTENTION}.qkv", input=f"{_ATTENTION}.q_proj")
_GATE_UP = Shared(codec=f"{_MLP}.gate_up", input=f"{_MLP}.gate_proj")
# Older configs give the number of layers from one without a window to the next.
_WINDOW = alternating_window(lambda s: s.size_or_none("sliding_window_pattern") or 6)

ARCHITECTURE = Architecture(
    model_type="gemma3_text",
    base_class="Gemma3TextModel",
    default_class="Gemma3ForCausalLM",
    prefix="model.",
    block="model.layers.{layer}.",
    defaults={
        "id2label": None,
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
        "tie_word_embeddings": True,
    },
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "hidden": "hidden_size",
        "ffn": "intermediate_size",
        "label": label_count,
        "head": "num_attention_heads",
        "kv_head": lambda s: s.size_or_none("num_key_value_heads") or s.size("num_attention_heads"),
        "head_dim": lambda s: s.size_or_none("head_dim") or s.size("hidden_size") // s.size("num_attention_heads"),
    },
    rules=rules(
        embedding("model.embed_tokens", "embed.token", "vocab", "hidden"),
        norm("model.layers.{layer}.input_layernorm", "norm.attn", "hidden"),
        linear(f"{_ATTENTION}.q_proj", "attn.q", "head*head_dim", "hidden", bias="attention_bias", shared=_QKV),
        linear(f"{_ATTENTION}.k_proj", "attn.k", "kv_head*head_dim", "hidden", bias="attention_bias", shared=_QKV),
        linear(f"{_ATTENTION}.v_proj", "attn.v", "kv_head*head_dim", "hidden", bias="attention_bias", shared=_QKV),
        norm(f"{_ATTENTION}.q_norm", "attn.q_norm", "head_dim"),
        norm(f"{_ATTENTION}.k_norm", "attn.k_norm", "head_dim"),
        linear(f"{_ATTENTION}.o_proj", "attn.o", "hidden", "head*head_dim", bias="attention_bias"),
        norm("model.layers.{layer}.post_attention_layernorm", "norm.attn.out", "hidden"),
        norm("model.layers.{layer}.pre_feedforward_layernorm", "norm.mlp", "hidden"),
        linear(f"{_MLP}.gate_proj", "mlp.gate", "ffn", "hidden", shared=_GATE_UP),
        linear(f"{_MLP}.up_proj", "mlp.up", "ffn", "hidden", shared=_GATE_UP),
        linear(f"{_MLP}.down_proj", "mlp.down", "hidden", "ffn"),
        norm("model.layers.{layer}.post_feedforward_layernorm", "norm.mlp.out", "hidden"),
        norm("model.norm", "norm.final", "hidden"),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForCausalLM",)),
        linear("score", "classifier", "label", "hidden", classes=("ForSequenceClassification",)),
        buffer(f"{_ATTENTION}.rotary_emb.inv_freq"),
    ),
    ties={"lm_head.weight": "model.embed_tokens.weight"},
    cache=KeyValueCache(heads="kv_head", window=_WINDOW),
    attention=(Attention(window=_WINDOW),),
    once=(),
)
