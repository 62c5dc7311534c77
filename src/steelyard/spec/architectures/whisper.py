"""Whisper: two convolutions and an encoder over thirty seconds of sound, a decoder that writes what was said."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import Rule, Shared, conv, embedding, linear, norm, parameter, rules

_ENCODER = "model.encoder.layers.{layer}"
_DECODER = "model.decoder.layers.{decoder_layer}"
_HEARS = ("WhisperModel", "ForConditionalGeneration", "ForAudioClassification")
_WRITES = ("WhisperModel", "ForConditionalGeneration", "ForCausalLM")
_CLASSIFIES = ("ForAudioClassification",)


def _attention(module: str, role: str, head: str, classes: tuple[str, ...]) -> tuple[Rule, ...]:
    cross = role == "cross"
    # Cross attention takes its queries from the decoder, keys and values from the encoder. Keys have no bias.
    fused = Shared(f"{module}.{'kv' if cross else 'qkv'}", f"{module}.{'k' if cross else 'q'}_proj")
    query = None if cross else fused
    return rules(
        linear(f"{module}.q_proj", f"{role}.q", head, "hidden", bias=True, classes=classes, shared=query),
        linear(f"{module}.k_proj", f"{role}.k", head, "hidden", classes=classes, shared=fused),
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


_HEAD, _DECODER_HEAD = "head*head_dim", "decoder_head*decoder_head_dim"

ARCHITECTURE = Architecture(
    model_type="whisper",
    base_class="WhisperModel",
    default_class="WhisperForConditionalGeneration",
    prefix="model.",
    bare=_CLASSIFIES,
    block=f"{_ENCODER}.",
    stacks={"decoder_layer": f"{_DECODER}."},
    defaults={
        "id2label": None,
        "vocab_size": 51865,
        "d_model": 384,
        "num_mel_bins": 80,
        "max_source_positions": 1500,
        "max_target_positions": 448,
        "encoder_layers": 4,
        "encoder_ffn_dim": 1536,
        "encoder_attention_heads": 6,
        "decoder_layers": 4,
        "decoder_ffn_dim": 1536,
        "decoder_attention_heads": 6,
        "classifier_proj_size": 256,
        "use_weighted_layer_sum": False,
        "tie_word_embeddings": True,
    },
    sizes={
        "layer": "encoder_layers",
        "decoder_layer": "decoder_layers",
        "vocab": "vocab_size",
        "mel": "num_mel_bins",
        "kernel": 3,
        "audio_position": "max_source_positions",
        "position": "max_target_positions",
        "hidden": "d_model",
        "ffn": "encoder_ffn_dim",
        "decoder_ffn": "decoder_ffn_dim",
        "projection": "classifier_proj_size",
        "layer_output": lambda s: s.size("encoder_layers") + 1,
        "label": label_count,
        "head": "encoder_attention_heads",
        "head_dim": lambda s: s.size("d_model") // s.size("encoder_attention_heads"),
        "decoder_head": "decoder_attention_heads",
        "decoder_head_dim": lambda s: s.size("d_model") // s.size("decoder_attention_heads"),
    },
    rules=rules(
        conv("model.encoder.conv1", "embed.audio", ("hidden", "mel", "kernel"), bias=True, classes=_HEARS),
        conv("model.encoder.conv2", "embed.audio", ("hidden", "hidden", "kernel"), bias=True, classes=_HEARS),
        embedding("model.encoder.embed_positions", "embed.position", "audio_position", "hidden", classes=_HEARS),
        _attention(f"{_ENCODER}.self_attn", "attn", _HEAD, _HEARS),
        _mlp(_ENCODER, "ffn", _HEARS),
        norm("model.encoder.layer_norm", "norm.final", "hidden", bias=True, classes=_HEARS),
        embedding("model.decoder.embed_tokens", "embed.token", "vocab", "hidden", classes=_WRITES),
        embedding("model.decoder.embed_positions", "embed.position", "position", "hidden", classes=_WRITES),
        _attention(f"{_DECODER}.self_attn", "attn", _DECODER_HEAD, _WRITES),
        _attention(f"{_DECODER}.encoder_attn", "cross", _DECODER_HEAD, _WRITES),
        _mlp(_DECODER, "decoder_ffn", _WRITES),
        norm("model.decoder.layer_norm", "norm.final", "hidden", bias=True, classes=_WRITES),
        linear("proj_out", "head", "vocab", "hidden", classes=("ForConditionalGeneration", "ForCausalLM")),
        parameter("layer_weights", "head.mix", "layer_output", when="use_weighted_layer_sum", classes=_CLASSIFIES),
        linear("projector", "head.projection", "projection", "hidden", bias=True, classes=_CLASSIFIES),
        linear("classifier", "classifier", "label", "projection", bias=True, classes=_CLASSIFIES),
    ),
    ties={"proj_out.weight": "model.decoder.embed_tokens.weight"},
    cache=(
        KeyValueCache(heads="decoder_head", width="decoder_head_dim", stack="decoder_layer"),
        KeyValueCache(heads="decoder_head", width="decoder_head_dim", stack="decoder_layer", over="audio"),
    ),
    attention=(
        Attention(stream="audio", over="audio", causal=False),
        Attention("decoder_head", "decoder_head_dim", "decoder_head_dim", "decoder_layer"),
        Attention(
            "decoder_head", "decoder_head_dim", "decoder_head_dim", "decoder_layer", over="audio", causal=False
        ),
    ),
    # The second convolution halves the frames.
    streams=(
        ("model.encoder.conv1.", "frame"),
        ("model.encoder.", "audio"),
        ("projector.", "audio"),
        (f"{_DECODER}.encoder_attn.k_proj", "audio"),
        (f"{_DECODER}.encoder_attn.v_proj", "audio"),
    ),
    positions={
        "frame": lambda s: 2 * s.size("max_source_positions"),
        "audio": "max_source_positions",
    },
)
