"""llama.cpp's mixes of types by rule: what its own quantizer stores each tensor as, without looking at a weight.

Source: llama.cpp's `llama-quant.cpp` (`llama_tensor_get_type_impl`, `tensor_type_fallback`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from steelyard.codecs import Codec, DenseCodec
from steelyard.codecs.gguf import GgufCodec
from steelyard.codecs.gguf.types import LEVELS, NUMBERS, TYPES
from steelyard.errors import UserError
from steelyard.formats.gguf.names import FAMILIES, expert_count, gguf_name
from steelyard.spec import ModelSpec, TensorSpec
from steelyard.spec.tensor import ROUTER

# Rows that are no whole number of 256 weights: the type of 32 that stands in, by llama.cpp's choice.
_NARROW = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "TQ1_0": "Q4_0", "TQ2_0": "Q4_0", "IQ4_XS": "IQ4_NL", "Q4_K": "Q5_0",
    "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip
_GROUPED = 4  # query heads to a key head, above which values are few and get more bits
_LAYERS_OF_70B = 80
_EIGHT = 8  # experts, for which llama.cpp has rules of their own, made for Mixtral
_OUTPUTS_OF_EIGHT = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS")

Rule = tuple[tuple[str, str], ...]
"""Pairs of a condition on the layer and a type; the first that holds counts. See `_holds`."""


@dataclass(frozen=True)
class Mix:
    """One mix.

    Attributes:
        base: the type of what no rule names.
        rules: by what a tensor is in GGUF: `attn_v`, `attn_output`, `ffn_down`, `token_embd`. Experts, and what all
            tokens share beside them, are as the feed-forward of a layer without any.
        pure: whether the head, too, has the base.
    """

    base: str
    rules: Mapping[str, Rule] = field(default_factory=dict)
    pure: bool = False


_MORE: Rule = (("more", "Q6_K"),)
MIXES: dict[str, Mix] = {
    "Q2_K": Mix(
        "Q2_K",
        {
            "attn_v": (("grouped", "Q4_K"), ("all", "Q3_K")),
            "ffn_down": (("all", "Q3_K"),),
            "attn_output": (("all", "Q3_K"),),
        },
    ),
    "Q2_K_S": Mix("Q2_K", {"attn_v": (("grouped", "Q4_K"),), "ffn_down": (("eighth", "Q4_K"),)}),
    "Q3_K_S": Mix("Q3_K"),
    "Q3_K_M": Mix(
        "Q3_K",
        {
            "attn_v": (("two", "Q5_K"), ("all", "Q4_K")),
            "ffn_down": (("sixteenth", "Q5_K"), ("all", "Q4_K")),
            "attn_output": (("all", "Q4_K"),),
        },
    ),
    "Q3_K_L": Mix("Q3_K", dict.fromkeys(("attn_v", "ffn_down", "attn_output"), (("all", "Q5_K"),))),
    "Q4_K_S": Mix("Q4_K", {"attn_v": (("four", "Q5_K"),), "ffn_down": (("eighth", "Q5_K"),)}),
    "Q4_K_M": Mix("Q4_K", {"attn_v": _MORE, "ffn_down": _MORE}),
    "Q5_K_S": Mix("Q5_K"),
    "Q5_K_M": Mix("Q5_K", {"attn_v": _MORE, "ffn_down": _MORE}),
    "Q6_K": Mix("Q6_K"),
    "Q8_0": Mix("Q8_0"),
    "Q4_0": Mix("Q4_0", {"ffn_down": (("eighth, calibrated", "Q4_1"),)}),
    "Q4_1": Mix("Q4_1"),
    "Q5_0": Mix("Q5_0", {"ffn_down": (("eighth, calibrated", "Q5_1"),)}),
    "Q5_1": Mix("Q5_1"),
    "IQ4_NL": Mix("IQ4_NL", {"attn_v": (("grouped", "Q5_K"),), "ffn_down": (("eighth, blind", "Q5_K"),)}),
    "IQ4_XS": Mix("IQ4_XS", {"attn_v": (("grouped", "Q5_K"),), "ffn_down": (("eighth, blind", "Q5_K"),)}),
    "TQ1_0": Mix("TQ1_0", {"token_embd": (("all", "Q4_K"),)}),
    "TQ2_0": Mix("TQ2_0", {"token_embd": (("all", "Q4_K"),)}),
}
"""By the name that llama.cpp gives them."""


def mixed(spec: ModelSpec, mix: str, calibrated: bool = False) -> dict[str, Codec]:
    """Return the codec of every matrix under one of llama.cpp's mixes.

    Args:
        spec: a model that GGUF has a family for.
        mix: one of `MIXES`.
        calibrated: whether importances are known; two rules ask for it.

    Raises:
        UserError: if there is no such mix.
    """
    if mix not in MIXES:
        raise UserError(f"no mix {mix!r}; available: {', '.join(MIXES)}")
    chosen = MIXES[mix]
    if FAMILIES[str(spec.config["model_type"])].normalizes is not None and expert_count(spec) == _EIGHT:
        outputs: Rule = (("all", "Q5_K"),) if mix in _OUTPUTS_OF_EIGHT else ()
        eight: Rule = (("all", "Q8_0"),)
        rules = {**chosen.rules, "attn_output": outputs, "attn_k": eight, "attn_v": eight}
        chosen = replace(chosen, rules=rules)
    return {name: _codec(kind, tensor) for name, tensor, kind in _kinds(spec, chosen, calibrated)}


def alike(spec: ModelSpec, kind: str) -> dict[str, Codec]:
    """Return one type for every matrix; for rows that are no whole number of its blocks the one that stands in.

    Raises:
        UserError: if there is no such type.
    """
    if kind not in LEVELS:
        raise UserError(f"no type {kind!r} to write; available: {', '.join(LEVELS)}")
    return {name: _codec(kind, tensor) for name, tensor, _ in _kinds(spec, Mix(kind, pure=True), False)}


def _kinds(spec: ModelSpec, mix: Mix, calibrated: bool) -> list[tuple[str, TensorSpec, str]]:
    assert spec.architecture is not None
    family = FAMILIES[str(spec.config["model_type"])]
    settings = spec.architecture.settings(spec.config)
    layers, heads = (spec.architecture.axis_size(axis, settings) for axis in ("layer", "head"))
    keys = spec.architecture.axis_size("kv_head", settings) if "kv_head" in spec.architecture.sizes else heads
    grouped = heads // keys >= _GROUPED
    many = layers == _LAYERS_OF_70B and (family.name == "qwen2" or (family.name == "llama" and keys < heads))
    found = []
    for name in spec.quantizable():
        tensor = spec.tensors[name]
        place = gguf_name(spec, family, name)
        float_only = tensor.role in ("embed.position", "embed.type") or str(tensor.role).startswith(ROUTER)
        if place is None or len(tensor.shape) != 2 or float_only:
            continue
        what = place.split(".")[-2].removesuffix("_exps").removesuffix("_shexp")
        # A fused q, k and v counts as values do.
        rule = mix.rules.get("attn_v" if what == "attn_qkv" else what, ())
        kind = next(
            (k for when, k in rule if _holds(when, tensor.layer or 0, layers, grouped, calibrated)), mix.base
        )
        if what in ("attn_v", "attn_qkv") and many and kind in ("Q3_K", "Q4_K"):
            kind = "Q5_K"
        if not mix.pure and (what == "output" or (what == "token_embd" and name in spec.ties.values())):
            whole = tensor.matrix_shape[1] % TYPES[NUMBERS[mix.base]].numbers == 0
            kind = "Q6_K" if whole and mix.base != "Q8_0" else "Q8_0"
        found.append((name, tensor, kind))
    return found


def _holds(when: str, layer: int, layers: int, grouped: bool, calibrated: bool) -> bool:
    eighth = layers // 8
    return {
        "all": True,
        "grouped": grouped,
        "two": layer < 2,
        "four": layer < 4,
        "sixteenth": layer < layers // 16,
        "eighth": layer < eighth,
        "eighth, calibrated": calibrated and layer < eighth,
        "eighth, blind": not calibrated and layer < eighth,
        "more": layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2,
    }[when]


def _codec(kind: str, tensor: TensorSpec) -> Codec:
    columns = tensor.matrix_shape[1]
    if columns % TYPES[NUMBERS[kind]].numbers:
        kind = _NARROW.get(kind, kind)
    return DenseCodec("F16") if columns % TYPES[NUMBERS[kind]].numbers else GgufCodec(kind)
