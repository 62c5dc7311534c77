"""Jamba: blocks of attention among blocks of Mamba, experts in every second one."""

from __future__ import annotations

from collections.abc import Mapping

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.cache import KeyValueCache, State
from steelyard.spec.compute import Attention, Work
from steelyard.spec.recurrent import time_step_rank
from steelyard.spec.rules import Shared, conv, embedding, linear, norm, parameter, rules, within
from steelyard.spec.settings import Settings

_BLOCK = "model.layers.{layer}"
_ATTENTION = f"{_BLOCK}.self_attn"
_MIXER = f"{_BLOCK}.mamba"
_MLP = f"{_BLOCK}.feed_forward"
_EXPERTS = f"{_MLP}.experts"
_EXPERT = f"{_EXPERTS}.{{expert}}"
_QKV = Shared(codec=f"{_ATTENTION}.qkv", input=f"{_ATTENTION}.q_proj")
_GATE_UP = Shared(codec=f"{_MLP}.gate_up", input=f"{_MLP}.gate_proj")
# Engines run the experts of a layer as one: all their matrices share a codec.
_EXPERT_GATE_UP = Shared(codec=_EXPERTS, input=f"{_EXPERT}.gate_proj")
_EXPERT_DOWN = Shared(codec=_EXPERTS, input=f"{_EXPERT}.down_proj")


def _is_attention(settings: Settings, layer: int) -> bool:
    return layer % settings.size("attn_layer_period") == settings.size("attn_layer_offset", least=0)


def _is_mamba(settings: Settings, layer: int) -> bool:
    return not _is_attention(settings, layer)


def _attends(settings: Settings, numbers: Mapping[str, int]) -> bool:
    return _is_attention(settings, numbers["layer"])


def _scans(settings: Settings, numbers: Mapping[str, int]) -> bool:
    return _is_mamba(settings, numbers["layer"])


def _chooses(settings: Settings, numbers: Mapping[str, int]) -> bool:
    chosen = numbers["layer"] % settings.size("expert_layer_period") == settings.size(
        "expert_layer_offset", least=0
    )
    return chosen and settings.size("num_experts") > 1


def _is_dense(settings: Settings, numbers: Mapping[str, int]) -> bool:
    return not _chooses(settings, numbers)


def _rank(settings: Settings) -> int:
    return time_step_rank(settings, "mamba_dt_rank")


ARCHITECTURE = Architecture(
    model_type="jamba",
    base_class="JambaModel",
    default_class="JambaForCausalLM",
    prefix="model.",
    block=f"{_BLOCK}.",
    defaults={
        "id2label": None,
        "vocab_size": 65536,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "attn_layer_period": 8,
        "attn_layer_offset": 4,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_dt_rank": "auto",
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "tie_word_embeddings": False,
    },
    sizes={
        "layer": "num_hidden_layers",
        "expert": "num_experts",
        "vocab": "vocab_size",
        "hidden": "hidden_size",
        "ffn": "intermediate_size",
        "label": label_count,
        "head": "num_attention_heads",
        "kv_head": lambda s: s.size_or_none("num_key_value_heads") or s.size("num_attention_heads"),
        "head_dim": lambda s: s.size("hidden_size") // s.size("num_attention_heads"),
        "one": 1,
        "branch": 2,
        "inner": lambda s: s.size("mamba_expand") * s.size("hidden_size"),
        "kernel": "mamba_d_conv",
        "state": "mamba_d_state",
        "rank": _rank,
        "rank_state": lambda s: _rank(s) + 2 * s.size("mamba_d_state"),
    },
    rules=rules(
        embedding("model.embed_tokens", "embed.token", "vocab", "hidden"),
        norm(f"{_BLOCK}.input_layernorm", "norm.attn", "hidden"),
        within(
            _attends,
            linear(f"{_ATTENTION}.q_proj", "attn.q", "head*head_dim", "hidden", shared=_QKV),
            linear(f"{_ATTENTION}.k_proj", "attn.k", "kv_head*head_dim", "hidden", shared=_QKV),
            linear(f"{_ATTENTION}.v_proj", "attn.v", "kv_head*head_dim", "hidden", shared=_QKV),
            linear(f"{_ATTENTION}.o_proj", "attn.o", "hidden", "head*head_dim"),
        ),
        within(
            _scans,
            linear(f"{_MIXER}.in_proj", "ssm.in", "branch*inner", "hidden", bias="mamba_proj_bias"),
            conv(f"{_MIXER}.conv1d", "ssm.conv", ("inner", "one", "kernel"), bias="mamba_conv_bias"),
            linear(f"{_MIXER}.x_proj", "ssm.x", "rank_state", "inner"),
            norm(f"{_MIXER}.dt_layernorm", "norm.dt", "rank"),
            norm(f"{_MIXER}.b_layernorm", "norm.b", "state"),
            norm(f"{_MIXER}.c_layernorm", "norm.c", "state"),
            linear(f"{_MIXER}.dt_proj", "ssm.dt", "inner", "rank", bias=True),
            parameter(f"{_MIXER}.A_log", "ssm.decay", "inner", "state"),
            parameter(f"{_MIXER}.D", "ssm.skip", "inner"),
            linear(f"{_MIXER}.out_proj", "ssm.out", "hidden", "inner", bias="mamba_proj_bias"),
        ),
        norm(f"{_BLOCK}.pre_ff_layernorm", "norm.mlp", "hidden"),
        within(
            _is_dense,
            linear(f"{_MLP}.gate_proj", "mlp.gate", "ffn", "hidden", shared=_GATE_UP),
            linear(f"{_MLP}.up_proj", "mlp.up", "ffn", "hidden", shared=_GATE_UP),
            linear(f"{_MLP}.down_proj", "mlp.down", "hidden", "ffn"),
        ),
        within(
            _chooses,
            linear(f"{_MLP}.router", "router", "expert", "hidden"),
            linear(f"{_EXPERT}.gate_proj", "expert.gate", "ffn", "hidden", shared=_EXPERT_GATE_UP),
            linear(f"{_EXPERT}.up_proj", "expert.up", "ffn", "hidden", shared=_EXPERT_GATE_UP),
            linear(f"{_EXPERT}.down_proj", "expert.down", "hidden", "ffn", shared=_EXPERT_DOWN),
        ),
        norm("model.final_layernorm", "norm.final", "hidden"),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForCausalLM",)),
        linear("score", "classifier", "label", "hidden", classes=("ForSequenceClassification",)),
    ),
    ties={"lm_head.weight": "model.embed_tokens.weight"},
    cache=(
        KeyValueCache(heads="kv_head", blocks=_is_attention),
        State("conv", "inner*kernel", blocks=_is_mamba),
        State("ssm", "inner*state", blocks=_is_mamba),
    ),
    attention=(Attention(blocks=_is_attention),),
    active={"expert": "num_experts_per_tok"},
    work=(Work("ssm.scan", "inner*state", blocks=_is_mamba),),
)
