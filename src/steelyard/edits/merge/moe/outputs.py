"""The architectures of mixtures that can be written: names of their tensors, and their config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.edits.catalogue import suggest
from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.moe.recipe import DRAWN, MoeRecipe
from steelyard.errors import UserError

PARTS = ("gate", "up", "down")
"""Matrices of a feed-forward layer, as roles name them: "mlp.gate", …"""

_LAYER = "model.layers.{layer}"

# What transformers takes where a dense model's config says nothing.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 2048, "hidden_act": "silu"},
    "mistral": {
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 131072,
        "hidden_act": "silu",
    },
    "qwen2": {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 32768, "hidden_act": "silu"},
    "qwen3": {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 32768, "hidden_act": "silu"},
}
_SIZES = {
    "vocab_size": "vocab",
    "hidden_size": "hidden",
    "intermediate_size": "ffn",
    "num_hidden_layers": "layer",
    "num_attention_heads": "head",
    "num_key_value_heads": "kv_head",
    "head_dim": "head_dim",
}
_WITHOUT_MEANING = (
    "attention_bias", "mlp_bias", "pretraining_tp", "layer_types", "max_window_layers", "sliding_window",
    "use_sliding_window", "transformers_version", "auto_map",
)  # fmt: skip


@dataclass(frozen=True)
class Output:
    """An architecture of mixtures.

    Attributes:
        model_type: of config.json.
        architecture: class of transformers.
        inputs: model types of the dense models it can be made of.
        router: name of a layer's gate.
        expert: name of a matrix of an expert.
        parts: the endings of `PARTS` in it.
        shared: name of a matrix of the shared expert; "" if there is none.
        shared_router: name of the shared expert's gate.
        biases: roles of biases it has; those that a base lacks are zeros.
        config: what it adds to the config, from (number of experts, active experts, width).
    """

    model_type: str
    architecture: str
    inputs: frozenset[str]
    router: str
    expert: str
    parts: tuple[str, str, str]
    config: Callable[[int, int, int], dict[str, Any]]
    shared: str = ""
    shared_router: str = ""
    biases: tuple[str, ...] = ()


def _mixtral(experts: int, active: int, width: int) -> dict[str, Any]:
    return {"num_local_experts": experts, "num_experts_per_tok": active, "sliding_window": None}


def _qwen3(experts: int, active: int, width: int) -> dict[str, Any]:
    return {
        "num_experts": experts,
        "num_experts_per_tok": active,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "moe_intermediate_size": width,
        "use_sliding_window": False,
        "sliding_window": None,
        "attention_bias": False,
    }


def _qwen2(experts: int, active: int, width: int) -> dict[str, Any]:
    settings = {**_qwen3(experts, active, width), "shared_expert_intermediate_size": width, "qkv_bias": True}
    del settings["attention_bias"]
    return settings


OUTPUTS: tuple[Output, ...] = (
    Output(
        "mixtral",
        "MixtralForCausalLM",
        frozenset({"llama", "mistral"}),
        _LAYER + ".block_sparse_moe.gate.weight",
        _LAYER + ".block_sparse_moe.experts.{expert}.{part}.weight",
        ("w1", "w3", "w2"),
        _mixtral,
    ),
    Output(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        frozenset({"llama", "mistral", "qwen2"}),
        _LAYER + ".mlp.gate.weight",
        _LAYER + ".mlp.experts.{expert}.{part}.weight",
        ("gate_proj", "up_proj", "down_proj"),
        _qwen2,
        _LAYER + ".mlp.shared_expert.{part}.weight",
        _LAYER + ".mlp.shared_expert_gate.weight",
        ("attn.q.bias", "attn.k.bias", "attn.v.bias"),
    ),
    Output(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        frozenset({"qwen3"}),
        _LAYER + ".mlp.gate.weight",
        _LAYER + ".mlp.experts.{expert}.{part}.weight",
        ("gate_proj", "up_proj", "down_proj"),
        _qwen3,
    ),
)
"""In the order in which they are chosen."""

_SPELLINGS = {"mixtral": "mixtral", "qwen": "qwen2_moe", "qwen2": "qwen2_moe", "qwen3": "qwen3_moe"}


def choose_output(recipe: MoeRecipe, types: Mapping[str, str]) -> Output:
    """Return the architecture of a recipe's result.

    Args:
        recipe: what is asked.
        types: model type of every model by its label.

    Raises:
        UserError: if none fits, with the reason.
    """
    asked = recipe.architecture.lower().split()
    if asked and asked[0] not in _SPELLINGS:
        raise UserError(f"architecture: {suggest(recipe.architecture, list(_SPELLINGS))}")
    wanted = _SPELLINGS[asked[0]] if asked else ""
    reasons = []
    for output in OUTPUTS:
        if wanted and output.model_type != wanted:
            continue
        reason = _obstacle(output, recipe, types)
        if not reason:
            return output
        reasons.append(f"{output.model_type}: {reason}")
    raise UserError("no mixture can be made of these models; " + "; ".join(reasons))


def config_of(output: Output, recipe: MoeRecipe, base: InputModel, dtype: str) -> dict[str, Any]:
    """Return the result's config: the base's, with nothing left to the defaults of another architecture."""
    architecture = base.spec.require_axes("a mixture of experts")
    known = {key: value for key, value in base.config.items() if key not in _WITHOUT_MEANING}
    settings = architecture.settings(base.config)
    sizes = {key: architecture.axis_size(axis, settings) for key, axis in _SIZES.items()}
    defaults = dict(_DEFAULTS[base.spec.model_type])
    if known.get("rope_parameters"):
        del defaults["rope_theta"]
    return {
        **defaults,
        **known,
        **sizes,
        "tie_word_embeddings": bool(known.get("tie_word_embeddings", False)),
        **output.config(len(recipe.experts), recipe.active, sizes["intermediate_size"]),
        "model_type": output.model_type,
        "architectures": [output.architecture],
        "dtype": dtype,
    }


def _obstacle(output: Output, recipe: MoeRecipe, types: Mapping[str, str]) -> str:
    """Return why an architecture cannot be the result's; "" if it can."""
    if len(set(types.values())) > 1:
        each = ", ".join(f"{label} is {kind}" for label, kind in types.items())
        return f"the models must be of one architecture ({each})"
    kind = next(iter(types.values()))
    if kind not in output.inputs:
        return f"it is made of {' or '.join(sorted(output.inputs))} models, not of {kind}"
    if not output.shared and recipe.shared:
        return "it has no shared experts"
    if output.shared and len(recipe.shared) != 1:
        return f"it takes exactly one shared expert, got {len(recipe.shared)}"
    if output.shared and recipe.gate not in DRAWN and not recipe.shared[0].positive:
        return "its shared expert needs positive_prompts"
    return ""
