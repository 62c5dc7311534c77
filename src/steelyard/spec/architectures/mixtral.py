"""Mixtral: Mistral whose MLP is several experts, of which a router chooses two for each token."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import Shared, buffer, embedding, linear, norm, rules
from steelyard.spec.settings import Settings

_ATTENTION = "model.layers.{layer}.self_attn"
_MOE = "model.layers.{layer}.block_sparse_moe"
_EXPERT = f"{_MOE}.experts.{{expert}}"
_QKV = Shared(codec=f"{_ATTENTION}.qkv", input=f"{_ATTENTION}.q_proj")
# Engines run the experts of a layer as one: all their matrices share a codec.
_GATE_UP = Shared(codec=f"{_MOE}.experts", input=f"{_EXPERT}.w1")
_DOWN = Shared(codec=f"{_MOE}.experts", input=f"{_EXPERT}.w2")


def _window(settings: Settings, layer: int) -> int | None:
    return settings.size_or_none("sliding_window")


ARCHITECTURE = Architecture(
    model_type="mixtral",
    base_class="MixtralModel",
    default_class="MixtralForCausalLM",
    prefix="model.",
    block="model.layers.{layer}.",
    defaults={
        "id2label": None,
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "sliding_window": None,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "tie_word_embeddings": False,
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
        "expert": "num_local_experts",
    },
    rules=rules(
        embedding("model.embed_tokens", "embed.token", "vocab", "hidden"),
        norm("model.layers.{layer}.input_layernorm", "norm.attn", "hidden"),
        linear(f"{_ATTENTION}.q_proj", "attn.q", "head*head_dim", "hidden", shared=_QKV),
        linear(f"{_ATTENTION}.k_proj", "attn.k", "kv_head*head_dim", "hidden", shared=_QKV),
        linear(f"{_ATTENTION}.v_proj", "attn.v", "kv_head*head_dim", "hidden", shared=_QKV),
        linear(f"{_ATTENTION}.o_proj", "attn.o", "hidden", "head*head_dim"),
        norm("model.layers.{layer}.post_attention_layernorm", "norm.mlp", "hidden"),
        linear(f"{_MOE}.gate", "router", "expert", "hidden"),
        linear(f"{_EXPERT}.w1", "expert.gate", "ffn", "hidden", shared=_GATE_UP),
        linear(f"{_EXPERT}.w3", "expert.up", "ffn", "hidden", shared=_GATE_UP),
        linear(f"{_EXPERT}.w2", "expert.down", "hidden", "ffn", shared=_DOWN),
        norm("model.norm", "norm.final", "hidden"),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForCausalLM",)),
        linear("score", "classifier", "label", "hidden", classes=("ForSequenceClassification",)),
        buffer(f"{_ATTENTION}.rotary_emb.inv_freq"),
    ),
    ties={"lm_head.weight": "model.embed_tokens.weight"},
    cache=KeyValueCache(heads="kv_head", window=_window),
    attention=(Attention(window=_window),),
    active={"expert": "num_experts_per_tok"},
    once=(),
)
