"""Gemma 3 with eyes: SigLIP's encoder of images, whose patches are pooled and take the places of tokens."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture
from steelyard.spec.architectures import _gemma3
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention, Work
from steelyard.spec.patches import patch_count, patch_side
from steelyard.spec.rules import Rule, Shared, buffer, conv, embedding, linear, norm, parameter, rules
from steelyard.spec.settings import Settings

_TEXT = "language_model.model."
_TOWER = "vision_tower"
_BLOCK = f"{_TOWER}.encoder.layers.{{image_layer}}"
_POOL = f"{_TOWER}.head"
_PROJECTOR = "multi_modal_projector"
_QKV = Shared(codec=f"{_BLOCK}.self_attn.qkv", input=f"{_BLOCK}.self_attn.q_proj")
_WINDOW = _gemma3.window("text_config.")


def _patches(settings: Settings) -> int:
    return patch_count(settings, "vision_config.image_size", "vision_config.patch_size")


def _pools(settings: Settings) -> bool:
    """Whether the images' encoder has the head that pools, of which this model makes no use."""
    return settings.get("vision_config.vision_use_head") is not False


def _image_linear(module: str, role: str, out: str, into: str, shared: Shared | None = None) -> tuple[Rule, ...]:
    return linear(f"{_BLOCK}.{module}", role, out, into, bias=True, shared=shared)


def _has_pooler(settings: Settings, number: int) -> bool:
    return _pools(settings)


ARCHITECTURE = Architecture(
    model_type="gemma3",
    base_class="Gemma3Model",
    default_class="Gemma3ForConditionalGeneration",
    prefix="",
    block=f"{_TEXT}layers.{{layer}}.",
    stacks={"image_layer": f"{_BLOCK}."},
    defaults={
        "mm_tokens_per_image": 256,
        "tie_word_embeddings": True,
        **{f"text_config.{key}": value for key, value in _gemma3.DEFAULTS.items()},
        "vision_config.hidden_size": 768,
        "vision_config.intermediate_size": 3072,
        "vision_config.num_hidden_layers": 12,
        "vision_config.num_attention_heads": 12,
        "vision_config.num_channels": 3,
        "vision_config.image_size": 224,
        "vision_config.patch_size": 16,
        "vision_config.vision_use_head": None,
    },
    sizes={
        **_gemma3.sizes("text_config."),
        "one": 1,
        "qkv": 3,
        "channel": "vision_config.num_channels",
        "patch_height": lambda s: patch_side(s, "vision_config.patch_size", 0),
        "patch_width": lambda s: patch_side(s, "vision_config.patch_size", 1),
        "image_position": _patches,
        "image_layer": "vision_config.num_hidden_layers",
        "image_hidden": "vision_config.hidden_size",
        "image_ffn": "vision_config.intermediate_size",
        "image_head": "vision_config.num_attention_heads",
        "image_head_dim": lambda s: (
            s.size("vision_config.hidden_size") // s.size("vision_config.num_attention_heads")
        ),
    },
    rules=rules(
        _gemma3.decoder(_TEXT, "text_config."),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForConditionalGeneration",)),
        conv(
            f"{_TOWER}.embeddings.patch_embedding",
            "embed.patch",
            ("image_hidden", "channel", "patch_height", "patch_width"),
            bias=True,
        ),
        embedding(f"{_TOWER}.embeddings.position_embedding", "embed.position", "image_position", "image_hidden"),
        norm(f"{_BLOCK}.layer_norm1", "norm.attn", "image_hidden", bias=True),
        _image_linear("self_attn.q_proj", "attn.q", "image_head*image_head_dim", "image_hidden", _QKV),
        _image_linear("self_attn.k_proj", "attn.k", "image_head*image_head_dim", "image_hidden", _QKV),
        _image_linear("self_attn.v_proj", "attn.v", "image_head*image_head_dim", "image_hidden", _QKV),
        _image_linear("self_attn.out_proj", "attn.o", "image_hidden", "image_head*image_head_dim"),
        norm(f"{_BLOCK}.layer_norm2", "norm.mlp", "image_hidden", bias=True),
        _image_linear("mlp.fc1", "mlp.up", "image_ffn", "image_hidden"),
        _image_linear("mlp.fc2", "mlp.down", "image_hidden", "image_ffn"),
        norm(f"{_TOWER}.post_layernorm", "norm.final", "image_hidden", bias=True),
        parameter(f"{_POOL}.probe", "pooler.query", "one", "one", "image_hidden", when=_pools),
        parameter(
            f"{_POOL}.attention.in_proj_weight", "pooler.qkv", "qkv*image_hidden", "image_hidden", when=_pools
        ),
        parameter(f"{_POOL}.attention.in_proj_bias", "pooler.qkv.bias", "qkv*image_hidden", when=_pools),
        linear(f"{_POOL}.attention.out_proj", "pooler.o", "image_hidden", "image_hidden", bias=_pools, when=_pools),
        norm(f"{_POOL}.layernorm", "pooler.norm", "image_hidden", bias=True, when=_pools),
        linear(f"{_POOL}.mlp.fc1", "pooler.up", "image_ffn", "image_hidden", bias=_pools, when=_pools),
        linear(f"{_POOL}.mlp.fc2", "pooler.down", "image_hidden", "image_ffn", bias=_pools, when=_pools),
        norm(f"{_PROJECTOR}.mm_soft_emb_norm", "norm.projection", "image_hidden"),
        # A bare matrix of [in, out], not the weight of a module: kept as it is by formats, so counted as work.
        parameter(f"{_PROJECTOR}.mm_input_projection_weight", "projection", "image_hidden", "hidden"),
        buffer(f"{_TOWER}.embeddings.position_ids"),
    ),
    ties={"lm_head.weight": f"{_TEXT}embed_tokens.weight"},
    # Files have been written with other starts of names; those of transformers' own modules are among them.
    renames=(
        (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
        (r"^vision_tower\.vision_model\.", "vision_tower."),
        (r"^model\.language_model\.", _TEXT),
        (r"^language_model\.lm_head\.", "lm_head."),
    ),
    cache=KeyValueCache(heads="kv_head", window=_WINDOW),
    attention=(
        Attention(window=_WINDOW),
        Attention(
            "image_head",
            "image_head_dim",
            "image_head_dim",
            "image_layer",
            stream="image",
            over="image",
            causal=False,
        ),
    ),
    streams=((_TOWER, "image"), (_PROJECTOR, "image_token")),
    work=(
        Work("projection", "image_hidden*hidden", stack="", stream="image_token"),
        # The pooler's query, its keys and values of the patches, and the products of one with the others.
        Work("pooler.q", "image_hidden*image_hidden", stack="", blocks=_has_pooler, stream="pooled"),
        Work("pooler.kv", "image_hidden*image_hidden", times=4, stack="", blocks=_has_pooler, stream="image"),
        Work("pooler.attention", "image_hidden", times=4, stack="", blocks=_has_pooler, stream="image"),
    ),
    positions={"image": _patches, "image_token": "mm_tokens_per_image", "pooled": 1},
    once=("pooler.o", "pooler.up", "pooler.down"),
)
