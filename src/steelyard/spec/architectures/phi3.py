"""Phi-3 and Phi-4: Llama with one matrix for queries, keys and values and one for gate and up."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import buffer, embedding, linear, norm, rules
from steelyard.spec.settings import Settings

_ATTENTION = "model.layers.{layer}.self_attn"
_MLP = "model.layers.{layer}.mlp"


def _window(settings: Settings, layer: int) -> int | None:
    return settings.size_or_none("sliding_window")


def _kv_heads(settings: Settings) -> int:
    return settings.size_or_none("num_key_value_heads") or settings.size("num_attention_heads")


ARCHITECTURE = Architecture(
    model_type="phi3",
    base_class="Phi3Model",
    default_class="Phi3ForCausalLM",
    prefix="model.",
    block="model.layers.{layer}.",
    defaults={
        "id2label": None,
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "hidden": "hidden_size",
        "ffn": "intermediate_size",
        "label": label_count,
        "head": "num_attention_heads",
        "kv_head": _kv_heads,
        "head_dim": lambda s: s.size_or_none("head_dim") or s.size("hidden_size") // s.size("num_attention_heads"),
        "qkv_head": lambda s: s.size("num_attention_heads") + 2 * _kv_heads(s),
        "gate_up": 2,
    },
    rules=rules(
        # All queries come first, then all keys, then all values; all gates, then all ups.
        embedding("model.embed_tokens", "embed.token", "vocab", "hidden"),
        norm("model.layers.{layer}.input_layernorm", "norm.attn", "hidden"),
        linear(f"{_ATTENTION}.qkv_proj", "attn.qkv", "qkv_head*head_dim", "hidden"),
        linear(f"{_ATTENTION}.o_proj", "attn.o", "hidden", "head*head_dim"),
        norm("model.layers.{layer}.post_attention_layernorm", "norm.mlp", "hidden"),
        linear(f"{_MLP}.gate_up_proj", "mlp.gate_up", "gate_up*ffn", "hidden"),
        linear(f"{_MLP}.down_proj", "mlp.down", "hidden", "ffn"),
        norm("model.norm", "norm.final", "hidden"),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForCausalLM",)),
        linear("score", "classifier", "label", "hidden", classes=("ForSequenceClassification",)),
        buffer(f"{_ATTENTION}.rotary_emb.inv_freq"),
    ),
    ties={"lm_head.weight": "model.embed_tokens.weight"},
    cache=KeyValueCache(heads="kv_head", window=_window),
    attention=(Attention(window=_window),),
    once=(),
)
