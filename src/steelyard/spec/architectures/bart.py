"""BART: encoder and decoder with learned positions and biases, layer norms after each half."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import Rule, Shared, buffer, embedding, linear, norm, rules
from steelyard.spec.settings import Settings

_ENCODER = "model.encoder.layers.{layer}"
_DECODER = "model.decoder.layers.{decoder_layer}"
_BOTH = ("BartModel", "ForConditionalGeneration", "ForSequenceClassification", "ForQuestionAnswering")
_CLASSIFIES = ("ForSequenceClassification",)


def _labels(settings: Settings) -> int:
    # Unlike other models three where the config lists none: entailment, neutral, contradiction.
    return label_count(settings) if settings.get("id2label") else 3


def _attention(module: str, role: str, head: str, classes: tuple[str, ...]) -> tuple[Rule, ...]:
    cross = role == "cross"
    # Cross attention takes its queries from the decoder, keys and values from the encoder.
    fused = Shared(f"{module}.{'kv' if cross else 'qkv'}", f"{module}.{'k' if cross else 'q'}_proj")
    query = None if cross else fused
    return rules(
        linear(f"{module}.q_proj", f"{role}.q", head, "hidden", bias=True, classes=classes, shared=query),
        linear(f"{module}.k_proj", f"{role}.k", head, "hidden", bias=True, classes=classes, shared=fused),
        linear(f"{module}.v_proj", f"{role}.v", head, "hidden", bias=True, classes=classes, shared=fused),
        linear(f"{module}.out_proj", f"{role}.o", "hidden", head, bias=True, classes=classes),
        norm(f"{module}_layer_norm", "norm.cross" if cross else "norm.attn", "hidden", bias=True, classes=classes),
    )


def _mlp(block: str, ffn: str, classes: tuple[str, ...]) -> tuple[Rule, ...]:
    return rules(
        linear(f"{block}.fc1", "mlp.up", ffn, "hidden", bias=True, classes=classes),
        linear(f"{block}.fc2", "mlp.down", "hidden", ffn, bias=True, classes=classes),
        norm(f"{block}.final_layer_norm", "norm.mlp", "hidden", bias=True, classes=classes),
    )


def _embeddings(stack: str, classes: tuple[str, ...]) -> tuple[Rule, ...]:
    return rules(
        embedding(f"{stack}.embed_tokens", "embed.token", "vocab", "hidden", classes=classes),
        embedding(f"{stack}.embed_positions", "embed.position", "position", "hidden", classes=classes),
        norm(f"{stack}.layernorm_embedding", "norm.embed", "hidden", bias=True, classes=classes),
    )


_HEAD, _DECODER_HEAD = "head*head_dim", "decoder_head*decoder_head_dim"

ARCHITECTURE = Architecture(
    model_type="bart",
    base_class="BartModel",
    default_class="BartForConditionalGeneration",
    prefix="model.",
    block=f"{_ENCODER}.",
    stacks={"decoder_layer": f"{_DECODER}."},
    defaults={
        "id2label": None,
        "vocab_size": 50265,
        "d_model": 1024,
        "max_position_embeddings": 1024,
        "encoder_layers": 12,
        "encoder_ffn_dim": 4096,
        "encoder_attention_heads": 16,
        "decoder_layers": 12,
        "decoder_ffn_dim": 4096,
        "decoder_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    sizes={
        "layer": "encoder_layers",
        "decoder_layer": "decoder_layers",
        "vocab": "vocab_size",
        # The first two places are the padding's.
        "position": lambda s: s.size("max_position_embeddings") + 2,
        "hidden": "d_model",
        "ffn": "encoder_ffn_dim",
        "decoder_ffn": "decoder_ffn_dim",
        "label": _labels,
        "head": "encoder_attention_heads",
        "head_dim": lambda s: s.size("d_model") // s.size("encoder_attention_heads"),
        "decoder_head": "decoder_attention_heads",
        "decoder_head_dim": lambda s: s.size("d_model") // s.size("decoder_attention_heads"),
    },
    rules=rules(
        embedding("model.shared", "embed.token", "vocab", "hidden", classes=_BOTH),
        _embeddings("model.encoder", _BOTH),
        _attention(f"{_ENCODER}.self_attn", "attn", _HEAD, _BOTH),
        _mlp(_ENCODER, "ffn", _BOTH),
        _embeddings("model.decoder", ()),
        _attention(f"{_DECODER}.self_attn", "attn", _DECODER_HEAD, ()),
        _attention(f"{_DECODER}.encoder_attn", "cross", _DECODER_HEAD, ()),
        _mlp(_DECODER, "decoder_ffn", ()),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForConditionalGeneration", "ForCausalLM")),
        linear("classification_head.dense", "classifier.dense", "hidden", "hidden", bias=True, classes=_CLASSIFIES),
        linear("classification_head.out_proj", "classifier", "label", "hidden", bias=True, classes=_CLASSIFIES),
        linear("qa_outputs", "classifier", "label", "hidden", bias=True, classes=("ForQuestionAnswering",)),
        buffer("final_logits_bias", "model.encoder.version", "model.decoder.version"),
    ),
    ties={
        "lm_head.weight": "model.decoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "model.encoder.embed_tokens.weight": "model.shared.weight",
    },
    cache=(
        KeyValueCache(heads="decoder_head", width="decoder_head_dim", stack="decoder_layer"),
        KeyValueCache(heads="decoder_head", width="decoder_head_dim", stack="decoder_layer", over="source"),
    ),
    attention=(
        Attention(stream="source", over="source", causal=False),
        Attention("decoder_head", "decoder_head_dim", "decoder_head_dim", "decoder_layer"),
        Attention(
            "decoder_head", "decoder_head_dim", "decoder_head_dim", "decoder_layer", over="source", causal=False
        ),
    ),
    streams=(
        ("model.encoder.", "source"),
        (f"{_DECODER}.encoder_attn.k_proj", "source"),
        (f"{_DECODER}.encoder_attn.v_proj", "source"),
    ),
    once=("pooler", "classifier", "classifier.dense"),
)
