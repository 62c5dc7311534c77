"""RWKV-4: a recurrence of decaying sums in place of attention; each half mixes a token with the one before it."""

from __future__ import annotations

from collections.abc import Mapping

from steelyard.spec.architecture import Architecture
from steelyard.spec.cache import State
from steelyard.spec.rules import embedding, linear, norm, parameter, rules, within
from steelyard.spec.settings import Settings

_BLOCK = "rwkv.blocks.{layer}"
_TIME = f"{_BLOCK}.attention"
_CHANNEL = f"{_BLOCK}.feed_forward"


def _first(settings: Settings, numbers: Mapping[str, int]) -> bool:
    return numbers["layer"] == 0


ARCHITECTURE = Architecture(
    model_type="rwkv",
    base_class="RwkvModel",
    default_class="RwkvForCausalLM",
    prefix="rwkv.",
    block=f"{_BLOCK}.",
    defaults={
        "vocab_size": 50277,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "attention_hidden_size": None,
        "intermediate_size": None,
        "tie_word_embeddings": False,
    },
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "hidden": "hidden_size",
        "inner": lambda s: s.size_or_none("attention_hidden_size") or s.size("hidden_size"),
        "ffn": lambda s: s.size_or_none("intermediate_size") or 4 * s.size("hidden_size"),
        "one": 1,
        "previous": 2,
        "sum": 3,
    },
    rules=rules(
        embedding("rwkv.embeddings", "embed.token", "vocab", "hidden"),
        within(_first, norm(f"{_BLOCK}.pre_ln", "norm.embed", "hidden", bias=True)),
        norm(f"{_BLOCK}.ln1", "norm.attn", "hidden", bias=True),
        parameter(f"{_TIME}.time_decay", "attn.decay", "inner"),
        parameter(f"{_TIME}.time_first", "attn.first", "inner"),
        parameter(f"{_TIME}.time_mix_key", "attn.mix.k", "one", "one", "hidden"),
        parameter(f"{_TIME}.time_mix_value", "attn.mix.v", "one", "one", "hidden"),
        parameter(f"{_TIME}.time_mix_receptance", "attn.mix.r", "one", "one", "hidden"),
        linear(f"{_TIME}.key", "attn.k", "inner", "hidden"),
        linear(f"{_TIME}.value", "attn.v", "inner", "hidden"),
        linear(f"{_TIME}.receptance", "attn.r", "inner", "hidden"),
        linear(f"{_TIME}.output", "attn.o", "hidden", "inner"),
        norm(f"{_BLOCK}.ln2", "norm.mlp", "hidden", bias=True),
        parameter(f"{_CHANNEL}.time_mix_key", "mlp.mix.k", "one", "one", "hidden"),
        parameter(f"{_CHANNEL}.time_mix_receptance", "mlp.mix.r", "one", "one", "hidden"),
        linear(f"{_CHANNEL}.key", "mlp.up", "ffn", "hidden"),
        linear(f"{_CHANNEL}.receptance", "mlp.gate", "hidden", "hidden"),
        linear(f"{_CHANNEL}.value", "mlp.down", "hidden", "ffn"),
        norm("rwkv.ln_out", "norm.final", "hidden", bias=True),
        linear("head", "head", "vocab", "hidden", classes=("ForCausalLM",)),
    ),
    ties={"head.weight": "rwkv.embeddings.weight"},
    # The token before, for each half; the numerator, denominator and greatest exponent of the decaying sums.
    cache=(State("shift", "previous*hidden"), State("sums", "sum*inner")),
)
