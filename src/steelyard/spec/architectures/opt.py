"""OPT: learned positions, layer norms with biases; narrow embeddings and norms after each half in the 350M one."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention
from steelyard.spec.rules import Rule, Shared, embedding, linear, norm, rules
from steelyard.spec.settings import Settings

_DECODER = "model.decoder"
_BLOCK = f"{_DECODER}.layers.{{layer}}"
_ATTENTION = f"{_BLOCK}.self_attn"
_QKV = Shared(codec=f"{_ATTENTION}.qkv", input=f"{_ATTENTION}.q_proj")
# The table of positions has two rows more than positions.
_OFFSET = 2


def _embedding_width(settings: Settings) -> int:
    return settings.size_or_none("word_embed_proj_dim") or settings.size("hidden_size")


def _projects(settings: Settings) -> bool:
    return _embedding_width(settings) != settings.size("hidden_size")


def _scales(settings: Settings) -> bool:
    return settings.flag("layer_norm_elementwise_affine")


def _scales_last(settings: Settings) -> bool:
    last = settings.flag("do_layer_norm_before") and not settings.flag("_remove_final_layer_norm")
    return last and _scales(settings)


def _attend(letter: str) -> tuple[Rule, ...]:
    module, role = f"{_ATTENTION}.{letter}_proj", f"attn.{letter}"
    return linear(module, role, "head*head_dim", "hidden", bias="enable_bias", shared=_QKV)


ARCHITECTURE = Architecture(
    model_type="opt",
    base_class="OPTModel",
    default_class="OPTForCausalLM",
    prefix="model.",
    block=f"{_BLOCK}.",
    defaults={
        "id2label": None,
        "vocab_size": 50272,
        "hidden_size": 768,
        "ffn_dim": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 2048,
        "word_embed_proj_dim": None,
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "tie_word_embeddings": True,
    },
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "position": lambda s: s.size("max_position_embeddings") + _OFFSET,
        "embedding": _embedding_width,
        "hidden": "hidden_size",
        "ffn": "ffn_dim",
        "label": label_count,
        "head": "num_attention_heads",
        "head_dim": lambda s: s.size("hidden_size") // s.size("num_attention_heads"),
    },
    rules=rules(
        embedding(f"{_DECODER}.embed_tokens", "embed.token", "vocab", "embedding"),
        embedding(f"{_DECODER}.embed_positions", "embed.position", "position", "hidden"),
        linear(f"{_DECODER}.project_in", "embed.project", "hidden", "embedding", when=_projects),
        norm(f"{_BLOCK}.self_attn_layer_norm", "norm.attn", "hidden", bias=True, when=_scales),
        _attend("q"),
        _attend("k"),
        _attend("v"),
        linear(f"{_ATTENTION}.out_proj", "attn.o", "hidden", "head*head_dim", bias="enable_bias"),
        norm(f"{_BLOCK}.final_layer_norm", "norm.mlp", "hidden", bias=True, when=_scales),
        linear(f"{_BLOCK}.fc1", "mlp.up", "ffn", "hidden", bias="enable_bias"),
        linear(f"{_BLOCK}.fc2", "mlp.down", "hidden", "ffn", bias="enable_bias"),
        norm(f"{_DECODER}.final_layer_norm", "norm.final", "hidden", bias=True, when=_scales_last),
        linear(f"{_DECODER}.project_out", "head.project", "embedding", "hidden", when=_projects),
        linear("lm_head", "head", "vocab", "embedding", classes=("ForCausalLM",)),
        linear("score", "classifier", "label", "embedding", classes=("ForSequenceClassification",)),
    ),
    ties={"lm_head.weight": f"{_DECODER}.embed_tokens.weight"},
    cache=KeyValueCache(heads="head"),
    attention=(Attention(),),
    once=(),
)
