"""Falcon: attention and MLP side by side, keys and values shared by all heads (7B) or by groups of them (40B)."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import buffer, embedding, linear, norm, rules
from steelyard.spec.settings import Settings

_BLOCK = "transformer.h.{layer}"


def _hidden(settings: Settings) -> int:
    return settings.size_or_none("n_embed") or settings.size("hidden_size")


def _kv_heads(settings: Settings) -> int:
    heads = settings.size("num_attention_heads")
    if settings.flag("new_decoder_architecture"):
        return settings.size_or_none("num_kv_heads") or heads
    return 1 if settings.flag("multi_query") else heads


def _has_two_norms(settings: Settings) -> bool:
    """Whether attention and MLP read the block's input through a norm each."""
    norms = settings.size_or_none("num_ln_in_parallel_attn") or 1 + settings.flag("new_decoder_architecture")
    return settings.flag("parallel_attn") and norms == 2


ARCHITECTURE = Architecture(
    model_type="falcon",
    base_class="FalconModel",
    default_class="FalconForCausalLM",
    prefix="transformer.",
    block=f"{_BLOCK}.",
    defaults={
        "id2label": None,
        "vocab_size": 65024,
        "hidden_size": 4544,
        "n_embed": None,
        "ffn_hidden_size": None,
        "num_hidden_layers": 32,
        "num_attention_heads": 71,
        "num_kv_heads": None,
        "num_ln_in_parallel_attn": None,
        "new_decoder_architecture": False,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "tie_word_embeddings": True,
    },
    # Within query_key_value the queries of a group of heads come first, then its key, then its value.
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "hidden": _hidden,
        "ffn": lambda s: s.size_or_none("ffn_hidden_size") or 4 * _hidden(s),
        "label": label_count,
        "head": "num_attention_heads",
        "kv_head": _kv_heads,
        "group_qkv": lambda s: s.size("num_attention_heads") // _kv_heads(s) + 2,
        "head_dim": lambda s: _hidden(s) // s.size("num_attention_heads"),
    },
    rules=rules(
        embedding("transformer.word_embeddings", "embed.token", "vocab", "hidden"),
        norm(f"{_BLOCK}.input_layernorm", "norm.attn", "hidden", bias=True, when=lambda s: not _has_two_norms(s)),
        norm(f"{_BLOCK}.ln_attn", "norm.attn", "hidden", bias=True, when=_has_two_norms),
        linear(
            f"{_BLOCK}.self_attention.query_key_value",
            "attn.qkv",
            "kv_head*group_qkv*head_dim",
            "hidden",
            bias="bias",
        ),
        linear(f"{_BLOCK}.self_attention.dense", "attn.o", "hidden", "head*head_dim", bias="bias"),
        norm(
            f"{_BLOCK}.post_attention_layernorm",
            "norm.mlp",
            "hidden",
            bias=True,
            when=lambda s: not s.flag("parallel_attn"),
        ),
        norm(f"{_BLOCK}.ln_mlp", "norm.mlp", "hidden", bias=True, when=_has_two_norms),
        linear(f"{_BLOCK}.mlp.dense_h_to_4h", "mlp.up", "ffn", "hidden", bias="bias"),
        linear(f"{_BLOCK}.mlp.dense_4h_to_h", "mlp.down", "hidden", "ffn", bias="bias"),
        norm("transformer.ln_f", "norm.final", "hidden", bias=True),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForCausalLM",)),
        linear("score", "classifier", "label", "hidden", classes=("ForSequenceClassification",)),
        buffer(f"{_BLOCK}.self_attention.rotary_emb.inv_freq", f"{_BLOCK}.self_attention.maybe_rotary.inv_freq"),
    ),
    ties={"lm_head.weight": "transformer.word_embeddings.weight"},
    cache=KeyValueCache(heads="kv_head"),
    attention=(Attention(),),
    once=(),
)
