"""Mamba-2: Mamba whose state space has heads with one decay each, so that it becomes products of matrices."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture
from steelyard.spec.cache import State
from steelyard.spec.compute import Work
from steelyard.spec.rules import bias, conv, embedding, linear, norm, parameter, rules
from steelyard.spec.settings import Settings

_BLOCK = "backbone.layers.{layer}"
_MIXER = f"{_BLOCK}.mixer"


def _inner(settings: Settings) -> int:
    return settings.size("expand") * settings.size("hidden_size")


def _convolved(settings: Settings) -> int:
    """The input of the state space, what enters the state and what reads it."""
    return _inner(settings) + 2 * settings.size("n_groups") * settings.size("state_size")


ARCHITECTURE = Architecture(
    model_type="mamba2",
    base_class="Mamba2Model",
    default_class="Mamba2ForCausalLM",
    prefix="backbone.",
    block=f"{_BLOCK}.",
    defaults={
        "vocab_size": 32768,
        "hidden_size": 4096,
        "state_size": 128,
        "num_hidden_layers": 64,
        "num_heads": 128,
        "head_dim": 64,
        "n_groups": 8,
        "expand": 2,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": False,
    },
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "hidden": "hidden_size",
        "one": 1,
        "head": "num_heads",
        "inner": _inner,
        "convolved": _convolved,
        # A gate, what is convolved, and a time step for every head.
        "projected": lambda s: _inner(s) + _convolved(s) + s.size("num_heads"),
        "kernel": "conv_kernel",
        "state": "state_size",
    },
    rules=rules(
        embedding("backbone.embeddings", "embed.token", "vocab", "hidden"),
        norm(f"{_BLOCK}.norm", "norm.ssm", "hidden"),
        linear(f"{_MIXER}.in_proj", "ssm.in", "projected", "hidden", bias="use_bias"),
        conv(f"{_MIXER}.conv1d", "ssm.conv", ("convolved", "one", "kernel"), bias="use_conv_bias"),
        bias(f"{_MIXER}.dt_bias", "ssm.dt.bias", "head"),
        parameter(f"{_MIXER}.A_log", "ssm.decay", "head"),
        parameter(f"{_MIXER}.D", "ssm.skip", "head"),
        norm(f"{_MIXER}.norm", "norm.gate", "inner"),
        linear(f"{_MIXER}.out_proj", "ssm.out", "hidden", "inner", bias="use_bias"),
        norm("backbone.norm_f", "norm.final", "hidden"),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForCausalLM",)),
    ),
    ties={"lm_head.weight": "backbone.embeddings.weight"},
    renames=((r"^backbone\.embedding\.", "backbone.embeddings."),),
    cache=(State("conv", "convolved*kernel"), State("ssm", "inner*state")),
    work=(Work("ssm.scan", "inner*state"),),
)
