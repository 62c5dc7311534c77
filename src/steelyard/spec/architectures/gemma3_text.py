"""Gemma 3: Gemma 2 with norms on queries and keys; five layers with a window to one without."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.architectures import _gemma3
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import buffer, linear, rules

_WINDOW = _gemma3.window()

ARCHITECTURE = Architecture(
    model_type="gemma3_text",
    base_class="Gemma3TextModel",
    default_class="Gemma3ForCausalLM",
    prefix="model.",
    block="model.layers.{layer}.",
    defaults={"id2label": None, **_gemma3.DEFAULTS, "tie_word_embeddings": True},
    sizes={**_gemma3.sizes(), "label": label_count},
    rules=rules(
        _gemma3.decoder("model."),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForCausalLM",)),
        linear("score", "classifier", "label", "hidden", classes=("ForSequenceClassification",)),
        buffer("model.layers.{layer}.self_attn.rotary_emb.inv_freq"),
    ),
    ties={"lm_head.weight": "model.embed_tokens.weight"},
    cache=KeyValueCache(heads="kv_head", window=_WINDOW),
    attention=(Attention(window=_WINDOW),),
)
