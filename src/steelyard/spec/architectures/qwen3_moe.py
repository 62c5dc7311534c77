"""Qwen3 with experts: a router chooses some for each token, in all layers or in some."""

from __future__ import annotations

from collections.abc import Mapping

from steelyard.errors import UserError
from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import Shared, buffer, embedding, linear, norm, rules, within
from steelyard.spec.settings import Settings

_ATTENTION = "model.layers.{layer}.self_attn"
_MLP = "model.layers.{layer}.mlp"
_QKV = Shared(codec=f"{_ATTENTION}.qkv", input=f"{_ATTENTION}.q_proj")
_EXPERTS = f"{_MLP}.experts"
_EXPERT = f"{_EXPERTS}.{{expert}}"
_GATE_UP = Shared(codec=f"{_MLP}.gate_up", input=f"{_MLP}.gate_proj")
# Engines run the experts of a layer as one: all their matrices share a codec.
_EXPERT_GATE_UP = Shared(codec=_EXPERTS, input=f"{_EXPERT}.gate_proj")
_EXPERT_DOWN = Shared(codec=_EXPERTS, input=f"{_EXPERT}.down_proj")


def _is_sparse(settings: Settings, numbers: Mapping[str, int]) -> bool:
    """Whether a layer has experts: every `decoder_sparse_step`-th but those listed as plain."""
    layer, plain = numbers["layer"], settings.get("mlp_only_layers") or ()
    if not isinstance(plain, list | tuple):
        raise UserError(f"config.json: mlp_only_layers must list layers, got {plain!r}")
    return layer not in plain and (layer + 1) % settings.size("decoder_sparse_step") == 0


def _is_dense(settings: Settings, numbers: Mapping[str, int]) -> bool:
    return not _is_sparse(settings, numbers)


def _window(settings: Settings, layer: int) -> int | None:
    return settings.size_or_none("sliding_window") if settings.flag("use_sliding_window") else None


ARCHITECTURE = Architecture(
    model_type="qwen3_moe",
    base_class="Qwen3MoeModel",
    default_class="Qwen3MoeForCausalLM",
    prefix="model.",
    block="model.layers.{layer}.",
    defaults={
        "id2label": None,
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": None,
        "attention_bias": False,
        "num_experts": 128,
        "num_local_experts": None,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 1,
        "mlp_only_layers": None,
        "use_sliding_window": False,
        "sliding_window": 4096,
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
        # transformers 5 writes the second name.
        "expert": lambda s: s.size_or_none("num_local_experts") or s.size("num_experts"),
        "expert_ffn": "moe_intermediate_size",
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
        norm("model.layers.{layer}.post_attention_layernorm", "norm.mlp", "hidden"),
        within(
            _is_dense,
            linear(f"{_MLP}.gate_proj", "mlp.gate", "ffn", "hidden", shared=_GATE_UP),
            linear(f"{_MLP}.up_proj", "mlp.up", "ffn", "hidden", shared=_GATE_UP),
            linear(f"{_MLP}.down_proj", "mlp.down", "hidden", "ffn"),
        ),
        within(
            _is_sparse,
            linear(f"{_MLP}.gate", "router", "expert", "hidden"),
            linear(f"{_EXPERT}.gate_proj", "expert.gate", "expert_ffn", "hidden", shared=_EXPERT_GATE_UP),
            linear(f"{_EXPERT}.up_proj", "expert.up", "expert_ffn", "hidden", shared=_EXPERT_GATE_UP),
            linear(f"{_EXPERT}.down_proj", "expert.down", "hidden", "expert_ffn", shared=_EXPERT_DOWN),
        ),
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
