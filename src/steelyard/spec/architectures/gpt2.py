"""GPT-2: learned positions, layer norms with biases, one matrix for q, k and v, weights stored as [in, out]."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import buffer, embedding, linear, norm, rules

_BLOCK = "transformer.h.{layer}"

ARCHITECTURE = Architecture(
    model_type="gpt2",
    base_class="GPT2Model",
    default_class="GPT2LMHeadModel",
    prefix="transformer.",
    block=f"{_BLOCK}.",
    defaults={
        "id2label": None,
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "tie_word_embeddings": True,
    },
    sizes={
        "layer": "n_layer",
        "vocab": "vocab_size",
        "position": "n_positions",
        "hidden": "n_embd",
        "ffn": lambda s: s.size_or_none("n_inner") or 4 * s.size("n_embd"),
        "label": label_count,
        "qkv": 3,
        "head": "n_head",
        "head_dim": lambda s: s.size("n_embd") // s.size("n_head"),
    },
    # Conv1D holds [in, out]. Within c_attn all queries come first, then all keys, then all values.
    rules=rules(
        embedding("transformer.wte", "embed.token", "vocab", "hidden"),
        embedding("transformer.wpe", "embed.position", "position", "hidden"),
        norm(f"{_BLOCK}.ln_1", "norm.attn", "hidden", bias=True),
        linear(f"{_BLOCK}.attn.c_attn", "attn.qkv", "qkv*head*head_dim", "hidden", bias=True, transposed=True),
        linear(f"{_BLOCK}.attn.c_proj", "attn.o", "hidden", "head*head_dim", bias=True, transposed=True),
        norm(f"{_BLOCK}.ln_2", "norm.mlp", "hidden", bias=True),
        linear(f"{_BLOCK}.mlp.c_fc", "mlp.up", "ffn", "hidden", bias=True, transposed=True),
        linear(f"{_BLOCK}.mlp.c_proj", "mlp.down", "hidden", "ffn", bias=True, transposed=True),
        norm("transformer.ln_f", "norm.final", "hidden", bias=True),
        linear("lm_head", "head", "vocab", "hidden", classes=("LMHeadModel", "DoubleHeadsModel")),
        linear("score", "classifier", "label", "hidden", classes=("ForSequenceClassification",)),
        buffer(f"{_BLOCK}.attn.bias", f"{_BLOCK}.attn.masked_bias"),
    ),
    ties={"lm_head.weight": "transformer.wte.weight"},
    cache=KeyValueCache(heads="head"),
    attention=(Attention(),),
    once=(),
)
