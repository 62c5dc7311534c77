"""BLOOM: biases by distance in place of positions, a norm after the embedding, q, k and v of each head together."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import embedding, linear, norm, rules
from steelyard.spec.settings import Settings

_BLOCK = "transformer.h.{layer}"


# Configs spell these sizes in two ways; where both are given, the second one counts, as in transformers.
def _hidden(settings: Settings) -> int:
    return settings.size_or_none("n_embed") or settings.size("hidden_size")


def _layers(settings: Settings) -> int:
    return settings.size_or_none("num_hidden_layers") or settings.size("n_layer")


def _heads(settings: Settings) -> int:
    return settings.size_or_none("num_attention_heads") or settings.size("n_head")


ARCHITECTURE = Architecture(
    model_type="bloom",
    base_class="BloomModel",
    default_class="BloomForCausalLM",
    prefix="transformer.",
    block=f"{_BLOCK}.",
    defaults={
        "id2label": None,
        "vocab_size": 250880,
        "hidden_size": 64,
        "n_embed": None,
        "n_layer": 2,
        "num_hidden_layers": None,
        "n_head": 8,
        "num_attention_heads": None,
        "tie_word_embeddings": True,
    },
    sizes={
        "layer": _layers,
        "vocab": "vocab_size",
        "hidden": _hidden,
        "ffn": lambda s: 4 * _hidden(s),
        "label": label_count,
        "qkv": 3,
        "head": _heads,
        "head_dim": lambda s: _hidden(s) // _heads(s),
    },
    rules=rules(
        embedding("transformer.word_embeddings", "embed.token", "vocab", "hidden"),
        norm("transformer.word_embeddings_layernorm", "norm.embed", "hidden", bias=True),
        norm(f"{_BLOCK}.input_layernorm", "norm.attn", "hidden", bias=True),
        linear(f"{_BLOCK}.self_attention.query_key_value", "attn.qkv", "head*qkv*head_dim", "hidden", bias=True),
        linear(f"{_BLOCK}.self_attention.dense", "attn.o", "hidden", "head*head_dim", bias=True),
        norm(f"{_BLOCK}.post_attention_layernorm", "norm.mlp", "hidden", bias=True),
        linear(f"{_BLOCK}.mlp.dense_h_to_4h", "mlp.up", "ffn", "hidden", bias=True),
        linear(f"{_BLOCK}.mlp.dense_4h_to_h", "mlp.down", "hidden", "ffn", bias=True),
        norm("transformer.ln_f", "norm.final", "hidden", bias=True),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForCausalLM",)),
        linear("score", "classifier", "label", "hidden", classes=("ForSequenceClassification",)),
    ),
    ties={"lm_head.weight": "transformer.word_embeddings.weight"},
    cache=KeyValueCache(heads="head"),
    attention=(Attention(),),
    once=(),
)
