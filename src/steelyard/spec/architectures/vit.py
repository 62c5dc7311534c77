"""ViT: an encoder of image patches with a class token; names as in its files, which older releases of
transformers chose."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.compute import Attention
from steelyard.spec.patches import patch_count, patch_side
from steelyard.spec.rules import Shared, conv, linear, norm, parameter, rules

_EMBEDDINGS = "vit.embeddings"
_BLOCK = "vit.encoder.layer.{layer}"
_SELF = f"{_BLOCK}.attention.attention"
_QKV = Shared(codec=f"{_SELF}.qkv", input=f"{_SELF}.query")

ARCHITECTURE = Architecture(
    model_type="vit",
    base_class="ViTModel",
    default_class="ViTModel",
    prefix="vit.",
    block=f"{_BLOCK}.",
    defaults={
        "id2label": None,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "qkv_bias": True,
        "encoder_stride": 16,
        "pooler_output_size": None,
    },
    sizes={
        "layer": "num_hidden_layers",
        "one": 1,
        "hidden": "hidden_size",
        "ffn": "intermediate_size",
        "channel": "num_channels",
        "patch_height": lambda s: patch_side(s, "patch_size", 0),
        "patch_width": lambda s: patch_side(s, "patch_size", 1),
        "image_position": lambda s: patch_count(s, "image_size", "patch_size") + 1,
        "pooled": lambda s: s.size_or_none("pooler_output_size") or s.size("hidden_size"),
        "pixel": lambda s: s.size("encoder_stride") ** 2 * s.size("num_channels"),
        "label": label_count,
        "head": "num_attention_heads",
        "head_dim": lambda s: s.size("hidden_size") // s.size("num_attention_heads"),
    },
    rules=rules(
        parameter(f"{_EMBEDDINGS}.cls_token", "embed.class", "one", "one", "hidden"),
        parameter(
            f"{_EMBEDDINGS}.mask_token",
            "embed.mask",
            "one",
            "one",
            "hidden",
            classes=("ForMaskedImageModeling",),
        ),
        parameter(f"{_EMBEDDINGS}.position_embeddings", "embed.position", "one", "image_position", "hidden"),
        conv(
            f"{_EMBEDDINGS}.patch_embeddings.projection",
            "embed.patch",
            ("hidden", "channel", "patch_height", "patch_width"),
            bias=True,
        ),
        norm(f"{_BLOCK}.layernorm_before", "norm.attn", "hidden", bias=True),
        linear(f"{_SELF}.query", "attn.q", "head*head_dim", "hidden", bias="qkv_bias", shared=_QKV),
        linear(f"{_SELF}.key", "attn.k", "head*head_dim", "hidden", bias="qkv_bias", shared=_QKV),
        linear(f"{_SELF}.value", "attn.v", "head*head_dim", "hidden", bias="qkv_bias", shared=_QKV),
        linear(f"{_BLOCK}.attention.output.dense", "attn.o", "hidden", "head*head_dim", bias=True),
        norm(f"{_BLOCK}.layernorm_after", "norm.mlp", "hidden", bias=True),
        linear(f"{_BLOCK}.intermediate.dense", "mlp.up", "ffn", "hidden", bias=True),
        linear(f"{_BLOCK}.output.dense", "mlp.down", "hidden", "ffn", bias=True),
        norm("vit.layernorm", "norm.final", "hidden", bias=True),
        linear("vit.pooler.dense", "pooler", "pooled", "hidden", bias=True, classes=("ViTModel",), optional=True),
        linear("classifier", "classifier", "label", "hidden", bias=True, classes=("ForImageClassification",)),
        conv(
            "decoder.0",
            "head.pixel",
            ("pixel", "hidden", "one", "one"),
            bias=True,
            classes=("ForMaskedImageModeling",),
        ),
    ),
    attention=(Attention(stream="image", over="image", causal=False),),
    # The class token joins the patches after they were embedded.
    streams=((f"{_EMBEDDINGS}.patch_embeddings.", "patch"), ("decoder.", "patch"), ("vit.", "image")),
    positions={
        "patch": lambda s: patch_count(s, "image_size", "patch_size"),
        "image": lambda s: patch_count(s, "image_size", "patch_size") + 1,
    },
)
