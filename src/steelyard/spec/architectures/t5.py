"""T5, FLAN-T5 and T5 1.1: encoder and decoder with relative positions in their first blocks and no biases."""

from __future__ import annotations

from collections.abc import Mapping

from steelyard.errors import UserError
from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import Rule, Shared, buffer, embedding, linear, norm, rules, within
from steelyard.spec.settings import Settings

_ENCODER = "encoder.block.{layer}"
_DECODER = "decoder.block.{decoder_layer}"
_BOTH = ("T5Model", "ForConditionalGeneration", "ForQuestionAnswering")


def _gated(settings: Settings) -> bool:
    kind = settings.get("feed_forward_proj")
    if not isinstance(kind, str):
        raise UserError(f"config.json: feed_forward_proj must be a word such as gated-gelu, got {kind!r}")
    return kind.startswith("gated-")


def _first(settings: Settings, numbers: Mapping[str, int]) -> bool:
    return not any(numbers.values())


def _attention(module: str, role: str, classes: tuple[str, ...], *, cross: bool = False) -> tuple[Rule, ...]:
    inner = "head*head_dim"
    # Cross attention takes its queries from the decoder, keys and values from the encoder.
    fused = Shared(f"{module}.{'kv' if cross else 'qkv'}", f"{module}.{'k' if cross else 'q'}")
    return rules(
        linear(f"{module}.q", f"{role}.q", inner, "hidden", classes=classes, shared=None if cross else fused),
        linear(f"{module}.k", f"{role}.k", inner, "hidden", classes=classes, shared=fused),
        linear(f"{module}.v", f"{role}.v", inner, "hidden", classes=classes, shared=fused),
        linear(f"{module}.o", f"{role}.o", "hidden", inner, classes=classes),
    )


def _mlp(module: str, classes: tuple[str, ...]) -> tuple[Rule, ...]:
    gate_up = Shared(f"{module}.wi", f"{module}.wi_0")
    return rules(
        linear(f"{module}.wi", "mlp.up", "ffn", "hidden", when=lambda s: not _gated(s), classes=classes),
        linear(f"{module}.wi_0", "mlp.gate", "ffn", "hidden", when=_gated, classes=classes, shared=gate_up),
        linear(f"{module}.wi_1", "mlp.up", "ffn", "hidden", when=_gated, classes=classes, shared=gate_up),
        linear(f"{module}.wo", "mlp.down", "hidden", "ffn", classes=classes),
    )


def _positions(module: str, classes: tuple[str, ...]) -> tuple[Rule, ...]:
    table = f"{module}.relative_attention_bias"
    return within(_first, embedding(table, "embed.relative", "bucket", "head", classes=classes))


ARCHITECTURE = Architecture(
    model_type="t5",
    base_class="T5Model",
    default_class="T5ForConditionalGeneration",
    prefix="",
    block=f"{_ENCODER}.",
    stacks={"decoder_layer": f"{_DECODER}."},
    defaults={
        "id2label": None,
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_decoder_layers": None,
        "num_heads": 8,
        "relative_attention_num_buckets": 32,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
    },
    sizes={
        "layer": "num_layers",
        "decoder_layer": lambda s: s.size_or_none("num_decoder_layers") or s.size("num_layers"),
        "vocab": "vocab_size",
        "hidden": "d_model",
        "ffn": "d_ff",
        "bucket": "relative_attention_num_buckets",
        "label": label_count,
        "head": "num_heads",
        "head_dim": "d_kv",
    },
    rules=rules(
        embedding("shared", "embed.token", "vocab", "hidden"),
        embedding("encoder.embed_tokens", "embed.token", "vocab", "hidden"),
        norm(f"{_ENCODER}.layer.0.layer_norm", "norm.attn", "hidden"),
        _attention(f"{_ENCODER}.layer.0.SelfAttention", "attn", ()),
        _positions(f"{_ENCODER}.layer.0.SelfAttention", ()),
        norm(f"{_ENCODER}.layer.1.layer_norm", "norm.mlp", "hidden"),
        _mlp(f"{_ENCODER}.layer.1.DenseReluDense", ()),
        norm("encoder.final_layer_norm", "norm.final", "hidden"),
        embedding("decoder.embed_tokens", "embed.token", "vocab", "hidden", classes=_BOTH),
        norm(f"{_DECODER}.layer.0.layer_norm", "norm.attn", "hidden", classes=_BOTH),
        _attention(f"{_DECODER}.layer.0.SelfAttention", "attn", _BOTH),
        _positions(f"{_DECODER}.layer.0.SelfAttention", _BOTH),
        norm(f"{_DECODER}.layer.1.layer_norm", "norm.cross", "hidden", classes=_BOTH),
        _attention(f"{_DECODER}.layer.1.EncDecAttention", "cross", _BOTH, cross=True),
        norm(f"{_DECODER}.layer.2.layer_norm", "norm.mlp", "hidden", classes=_BOTH),
        _mlp(f"{_DECODER}.layer.2.DenseReluDense", _BOTH),
        norm("decoder.final_layer_norm", "norm.final", "hidden", classes=_BOTH),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForConditionalGeneration",)),
        linear("qa_outputs", "classifier", "label", "hidden", bias=True, classes=("ForQuestionAnswering",)),
        # The first files hold a table there that no model reads.
        buffer(f"{_DECODER}.layer.1.EncDecAttention.relative_attention_bias.weight"),
    ),
    ties={
        "lm_head.weight": "shared.weight",
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    },
    # `tie_word_embeddings` of T5 1.1 is about its head alone.
    always_tied=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    cache=(
        KeyValueCache(heads="head", stack="decoder_layer"),
        KeyValueCache(heads="head", stack="decoder_layer", over="source"),
    ),
    attention=(
        Attention(stream="source", over="source", causal=False),
        Attention(stack="decoder_layer"),
        Attention(stack="decoder_layer", over="source", causal=False),
    ),
    streams=(
        ("encoder.", "source"),
        (f"{_DECODER}.layer.1.EncDecAttention.k", "source"),
        (f"{_DECODER}.layer.1.EncDecAttention.v", "source"),
    ),
)
