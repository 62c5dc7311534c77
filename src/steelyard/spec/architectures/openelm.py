"""OpenELM: every block has its own number of heads and its own width, given by lists or made from multipliers.

The model's code comes with its weights, not with transformers; names and rounding are that code's
(`modeling_openelm.py` of apple/OpenELM-270M).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from steelyard.errors import UserError
from steelyard.spec.architecture import Architecture, ByLayer
from steelyard.spec.cache import KeyValueCache
from steelyard.spec.compute import Attention, Work
from steelyard.spec.rules import embedding, linear, norm, rules
from steelyard.spec.settings import Settings

_BLOCK = "transformer.layers.{layer}"
_ATTENTION = f"{_BLOCK}.attn"


def _numbers(settings: Settings, key: str) -> list[float]:
    """The positive numbers that the config lists: one for each layer, or those of the first and the last."""
    values, layers = settings.get(key), settings.size("num_transformer_layers")
    if isinstance(values, Sequence) and len(values) in (2, layers):
        numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and v > 0]
        if len(numbers) == len(values):
            return numbers
    raise UserError(
        f"config.json: {key} must list a positive number for each of the {layers} layers, or for the first and the "
        f"last of them, got {values!r}"
    )


def _multiplier(settings: Settings, key: str, layer: int) -> float:
    values, layers = _numbers(settings, key), settings.size("num_transformer_layers")
    if len(values) == layers:
        return values[layer]
    # Rounded to two digits, as the model's code does.
    return round(values[0] + (values[1] - values[0]) * layer / max(layers - 1, 1), 2)


def _listed(settings: Settings, key: str, layer: int) -> int:
    """The whole number that a list of the config has for a layer."""
    counts, layers = settings.get(key), settings.size("num_transformer_layers")
    whole = isinstance(counts, Sequence) and all(type(count) is int and count > 0 for count in counts)
    if not whole or len(counts) != layers:
        raise UserError(
            f"config.json: {key} must list a positive whole number for each of the {layers} layers, got {counts!r}"
        )
    return int(counts[layer])


def _divisible(value: float, divisor: int) -> int:
    """The multiple of a divisor nearest to a value, not smaller by more than a tenth."""
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


def _query_heads(settings: Settings, numbers: Mapping[str, int]) -> int:
    if settings.get("num_query_heads") is not None:
        return _listed(settings, "num_query_heads", numbers["layer"])
    width, head = settings.size("model_dim"), settings.size("head_dim")
    scaled = width * _multiplier(settings, "qkv_multipliers", numbers["layer"])
    return _divisible(scaled, head * settings.size("num_gqa_groups")) // head


def _kv_heads(settings: Settings, numbers: Mapping[str, int]) -> int:
    if settings.get("num_kv_heads") is not None:
        return _listed(settings, "num_kv_heads", numbers["layer"])
    return _query_heads(settings, numbers) // settings.size("num_gqa_groups")


def _qkv_heads(settings: Settings, numbers: Mapping[str, int]) -> int:
    return _query_heads(settings, numbers) + 2 * _kv_heads(settings, numbers)


def _ffn(settings: Settings, numbers: Mapping[str, int]) -> int:
    multiplier = _multiplier(settings, "ffn_multipliers", numbers["layer"])
    return _divisible(multiplier * settings.size("model_dim"), settings.size("ffn_dim_divisor"))


def _gated(settings: Settings, numbers: Mapping[str, int]) -> int:
    return (2 if settings.flag("ffn_with_glu") else 1) * _ffn(settings, numbers)


def _by_layer(size: Callable[[Settings, Mapping[str, int]], int]) -> ByLayer:
    def largest(settings: Settings) -> int:
        return max(size(settings, {"layer": layer}) for layer in range(settings.size("num_transformer_layers")))

    return ByLayer(size, largest)


ARCHITECTURE = Architecture(
    model_type="openelm",
    base_class="OpenELMModel",
    default_class="OpenELMForCausalLM",
    prefix="transformer.",
    block=f"{_BLOCK}.",
    # Those of OpenELM-270M. Its config lists the heads; where one does not, they follow from multipliers.
    defaults={
        "vocab_size": 32000,
        "model_dim": 1280,
        "head_dim": 64,
        "num_transformer_layers": 16,
        "num_query_heads": None,
        "num_kv_heads": None,
        "qkv_multipliers": [0.5, 1.0],
        "num_gqa_groups": 4,
        "ffn_multipliers": [0.5, 4.0],
        "ffn_with_glu": True,
        "ffn_dim_divisor": 256,
        "normalize_qk_projections": True,
        "share_input_output_layers": True,
    },
    sizes={
        "layer": "num_transformer_layers",
        "vocab": "vocab_size",
        "hidden": "model_dim",
        "ffn": _by_layer(_ffn),
        "gated_ffn": _by_layer(_gated),
        "head": _by_layer(_query_heads),
        "kv_head": _by_layer(_kv_heads),
        "qkv_head": _by_layer(_qkv_heads),
        "head_dim": "head_dim",
    },
    # All queries come first, then all keys, then all values; all gates, then all ups.
    rules=rules(
        embedding("transformer.token_embeddings", "embed.token", "vocab", "hidden"),
        norm(f"{_BLOCK}.attn_norm", "norm.attn", "hidden"),
        linear(f"{_ATTENTION}.qkv_proj", "attn.qkv", "qkv_head*head_dim", "hidden"),
        norm(f"{_ATTENTION}.q_norm", "attn.q_norm", "head_dim", when="normalize_qk_projections"),
        norm(f"{_ATTENTION}.k_norm", "attn.k_norm", "head_dim", when="normalize_qk_projections"),
        linear(f"{_ATTENTION}.out_proj", "attn.o", "hidden", "head*head_dim"),
        norm(f"{_BLOCK}.ffn_norm", "norm.mlp", "hidden"),
        linear(f"{_BLOCK}.ffn.proj_1", "mlp.gate_up", "gated_ffn", "hidden"),
        linear(f"{_BLOCK}.ffn.proj_2", "mlp.down", "hidden", "ffn"),
        norm("transformer.norm", "norm.final", "hidden"),
        linear(
            "lm_head",
            "head",
            "vocab",
            "hidden",
            when=lambda s: not s.flag("share_input_output_layers"),
            classes=("ForCausalLM",),
        ),
    ),
    cache=KeyValueCache(heads="kv_head"),
    attention=(Attention(),),
    # Without a matrix of its own the head multiplies with the embeddings.
    work=(Work("head", "vocab*hidden", stack="", blocks=lambda s, _: s.flag("share_input_output_layers")),),
    once=(),
)
