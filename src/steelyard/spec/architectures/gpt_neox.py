"""GPT-NeoX and Pythia: rotary positions, parallel residuals, q, k and v of each head side by side in one matrix."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import buffer, embedding, linear, norm, rules

_BLOCK = "gpt_neox.layers.{layer}"
_QKV = "head*qkv*head_dim"

ARCHITECTURE = Architecture(
    model_type="gpt_neox",
    base_class="GPTNeoXModel",
    default_class="GPTNeoXForCausalLM",
    prefix="gpt_neox.",
    block=f"{_BLOCK}.",
    defaults={
        "id2label": None,
        "vocab_size": 50432,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "hidden": "hidden_size",
        "ffn": "intermediate_size",
        "label": label_count,
        "qkv": 3,
        "head": "num_attention_heads",
        "head_dim": lambda s: s.size("hidden_size") // s.size("num_attention_heads"),
    },
    # Within query_key_value each head has its query, key and value next to each other.
    rules=rules(
        embedding("gpt_neox.embed_in", "embed.token", "vocab", "hidden"),
        norm(f"{_BLOCK}.input_layernorm", "norm.attn", "hidden", bias=True),
        linear(f"{_BLOCK}.attention.query_key_value", "attn.qkv", _QKV, "hidden", bias="attention_bias"),
        linear(f"{_BLOCK}.attention.dense", "attn.o", "hidden", "head*head_dim", bias="attention_bias"),
        norm(f"{_BLOCK}.post_attention_layernorm", "norm.mlp", "hidden", bias=True),
        linear(f"{_BLOCK}.mlp.dense_h_to_4h", "mlp.up", "ffn", "hidden", bias=True),
        linear(f"{_BLOCK}.mlp.dense_4h_to_h", "mlp.down", "hidden", "ffn", bias=True),
        norm("gpt_neox.final_layer_norm", "norm.final", "hidden", bias=True),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForCausalLM",)),
        linear("score", "classifier", "label", "hidden", classes=("ForSequenceClassification",)),
        buffer(
            f"{_BLOCK}.attention.bias",
            f"{_BLOCK}.attention.masked_bias",
            f"{_BLOCK}.attention.rotary_emb.inv_freq",
        ),
    ),
    ties={"lm_head.weight": "gpt_neox.embed_in.weight"},
    # Files spell the head as it was called before transformers 5.
    renames=((r"^embed_out\.", "lm_head."),),
    cache=KeyValueCache(heads="head"),
    attention=(Attention(),),
    once=(),
)
