"""CLIP's two encoders as rows: of texts and of images; three tables are made of them."""

from __future__ import annotations

from collections.abc import Mapping

from steelyard.spec.architecture import Size
from steelyard.spec.compute import Attention
from steelyard.spec.patches import patch_count, patch_side
from steelyard.spec.rules import Rule, Shared, buffer, conv, embedding, linear, norm, parameter, rules
from steelyard.spec.settings import Settings

TEXT_DEFAULTS = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
}
IMAGE_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}


def text_sizes(config: str = "") -> dict[str, Size]:
    """Lengths of the axes of the text's encoder.

    Args:
        config: start of its keys: "text_config." where they stand in a config of their own.
    """
    return {
        "layer": f"{config}num_hidden_layers",
        "vocab": f"{config}vocab_size",
        "position": f"{config}max_position_embeddings",
        "hidden": f"{config}hidden_size",
        "ffn": f"{config}intermediate_size",
        "head": f"{config}num_attention_heads",
        "head_dim": lambda s: s.size(f"{config}hidden_size") // s.size(f"{config}num_attention_heads"),
    }


def image_sizes(config: str = "", axis: str = "") -> dict[str, Size]:
    """Lengths of the axes of the image's encoder.

    Args:
        config: start of its keys: "vision_config." where they stand in a config of their own.
        axis: start of the names of axes that the text's encoder has too.
    """
    image, patch = f"{config}image_size", f"{config}patch_size"
    return {
        f"{axis}layer": f"{config}num_hidden_layers",
        "channel": f"{config}num_channels",
        "patch_height": lambda s: patch_side(s, patch, 0),
        "patch_width": lambda s: patch_side(s, patch, 1),
        "image_position": lambda s: patch_count(s, image, patch) + 1,
        f"{axis}hidden": f"{config}hidden_size",
        f"{axis}ffn": f"{config}intermediate_size",
        f"{axis}head": f"{config}num_attention_heads",
        f"{axis}head_dim": lambda s: s.size(f"{config}hidden_size") // s.size(f"{config}num_attention_heads"),
    }


def image_positions(config: str = "") -> Mapping[str, Size]:
    """Positions of the streams of an image: its patches, and those with the class token."""

    def patches(settings: Settings) -> int:
        return patch_count(settings, f"{config}image_size", f"{config}patch_size")

    return {"patch": patches, "image": lambda s: patches(s) + 1}


IMAGE_STREAMS = (("vision_model.embeddings.patch_embedding.", "patch"), ("vision_model.", "image"))
TEXT_BLOCK = "text_model.encoder.layers.{layer}."


def image_block(axis: str = "") -> str:
    """Start of the names of one block of the image's encoder."""
    return f"vision_model.encoder.layers.{{{axis}layer}}."


def image_attention(axis: str = "") -> Attention:
    """The attention of the image's encoder."""
    return Attention(
        f"{axis}head",
        f"{axis}head_dim",
        f"{axis}head_dim",
        f"{axis}layer",
        stream="image",
        over="image",
        causal=False,
    )


def text_rules(classes: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    """Return the rows of the text's encoder."""
    start = "text_model.embeddings"
    return rules(
        embedding(f"{start}.token_embedding", "embed.token", "vocab", "hidden", classes=classes),
        embedding(f"{start}.position_embedding", "embed.position", "position", "hidden", classes=classes),
        _block(TEXT_BLOCK, "", classes),
        norm("text_model.final_layer_norm", "norm.final", "hidden", bias=True, classes=classes),
        buffer(f"{start}.position_ids"),
    )


def image_rules(axis: str = "", classes: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    """Return the rows of the image's encoder; for `axis` see `image_sizes`."""
    start, hidden = "vision_model.embeddings", f"{axis}hidden"
    patch = (hidden, "channel", "patch_height", "patch_width")
    return rules(
        parameter(f"{start}.class_embedding", "embed.class", hidden, classes=classes),
        conv(f"{start}.patch_embedding", "embed.patch", patch, classes=classes),
        embedding(f"{start}.position_embedding", "embed.position", "image_position", hidden, classes=classes),
        norm("vision_model.pre_layrnorm", "norm.embed", hidden, bias=True, classes=classes),
        _block(image_block(axis), axis, classes),
        norm("vision_model.post_layernorm", "norm.final", hidden, bias=True, classes=classes),
        buffer(f"{start}.position_ids"),
    )


def _block(block: str, axis: str, classes: tuple[str, ...]) -> tuple[Rule, ...]:
    hidden, ffn, heads = f"{axis}hidden", f"{axis}ffn", f"{axis}head*{axis}head_dim"
    attention = f"{block}self_attn"
    qkv = Shared(codec=f"{attention}.qkv", input=f"{attention}.q_proj")
    return rules(
        norm(f"{block}layer_norm1", "norm.attn", hidden, bias=True, classes=classes),
        linear(f"{attention}.q_proj", "attn.q", heads, hidden, bias=True, classes=classes, shared=qkv),
        linear(f"{attention}.k_proj", "attn.k", heads, hidden, bias=True, classes=classes, shared=qkv),
        linear(f"{attention}.v_proj", "attn.v", heads, hidden, bias=True, classes=classes, shared=qkv),
        linear(f"{attention}.out_proj", "attn.o", hidden, heads, bias=True, classes=classes),
        norm(f"{block}layer_norm2", "norm.mlp", hidden, bias=True, classes=classes),
        linear(f"{block}mlp.fc1", "mlp.up", ffn, hidden, bias=True, classes=classes),
        linear(f"{block}mlp.fc2", "mlp.down", hidden, ffn, bias=True, classes=classes),
    )
