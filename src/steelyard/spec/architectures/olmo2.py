"""OLMo 2: norms after each half of a block and over all queries and all keys, none before."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import Shared, buffer, embedding, linear, norm, rules

_ATTENTION = "model.layers.{layer}.self_attn"
_MLP = "model.layers.{layer}.mlp"
_QKV = Shared(codec=f"{_ATTENTION}.qkv", input=f"{_ATTENTION}.q_proj")
_GATE_UP = Shared(codec=f"{_MLP}.gate_up", input=f"{_MLP}.gate_proj")

ARCHITECTURE = Architecture(
    model_type="olmo2",
    base_class="Olmo2Model",
    default_class="Olmo2ForCausalLM",
    prefix="model.",
    block="model.layers.{layer}.",
    defaults={
        "id2label": None,
        "vocab_size": 50304,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "attention_bias": False,
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
    },
    rules=rules(
        embedding("model.embed_tokens", "embed.token", "vocab", "hidden"),
        linear(f"{_ATTENTION}.q_proj", "attn.q", "head*head_dim", "hidden", bias="attention_bias", shared=_QKV),
        linear(f"{_ATTENTION}.k_proj", "attn.k", "kv_head*head_dim", "hidden", bias="attention_bias", shared=_QKV),
        linear(f"{_ATTENTION}.v_proj", "attn.v", "kv_head*head_dim", "hidden", bias="attention_bias", shared=_QKV),
        norm(f"{_ATTENTION}.q_norm", "attn.q_norm", "head*head_dim"),
        norm(f"{_ATTENTION}.k_norm", "attn.k_norm", "kv_head*head_dim"),
        linear(f"{_ATTENTION}.o_proj", "attn.o", "hidden", "head*head_dim", bias="attention_bias"),
        norm("model.layers.{layer}.post_attention_layernorm", "norm.attn.out", "hidden"),
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
    cache=KeyValueCache(heads="kv_head"),
    attention=(Attention(),),
    once=(),
)
