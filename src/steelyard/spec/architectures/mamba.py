"""Mamba: no attention, but a selective state space in each block, with a short convolution before it."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture
from steelyard.spec.cache import State
from steelyard.spec.compute import Work
from steelyard.spec.recurrent import time_step_rank
from steelyard.spec.rules import conv, embedding, linear, norm, parameter, rules
from steelyard.spec.settings import Settings

_BLOCK = "backbone.layers.{layer}"
_MIXER = f"{_BLOCK}.mixer"


def _rank(settings: Settings) -> int:
    return time_step_rank(settings, "time_step_rank")


ARCHITECTURE = Architecture(
    model_type="mamba",
    base_class="MambaModel",
    default_class="MambaForCausalLM",
    prefix="backbone.",
    block=f"{_BLOCK}.",
    defaults={
        "vocab_size": 50280,
        "hidden_size": 768,
        "state_size": 16,
        "num_hidden_layers": 32,
        "expand": 2,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": "auto",
        "tie_word_embeddings": True,
    },
    sizes={
        "layer": "num_hidden_layers",
        "vocab": "vocab_size",
        "hidden": "hidden_size",
        "one": 1,
        "branch": 2,
        "inner": lambda s: s.size("expand") * s.size("hidden_size"),
        "kernel": "conv_kernel",
        "state": "state_size",
        "rank": _rank,
        "rank_state": lambda s: _rank(s) + 2 * s.size("state_size"),
    },
    # Within in_proj the input of the state space comes first, then its gate; within x_proj the time step, what
    # enters the state and what reads it.
    rules=rules(
        embedding("backbone.embeddings", "embed.token", "vocab", "hidden"),
        norm(f"{_BLOCK}.norm", "norm.ssm", "hidden"),
        linear(f"{_MIXER}.in_proj", "ssm.in", "branch*inner", "hidden", bias="use_bias"),
        conv(f"{_MIXER}.conv1d", "ssm.conv", ("inner", "one", "kernel"), bias="use_conv_bias"),
        linear(f"{_MIXER}.x_proj", "ssm.x", "rank_state", "inner"),
        linear(f"{_MIXER}.dt_proj", "ssm.dt", "inner", "rank", bias=True),
        parameter(f"{_MIXER}.A_log", "ssm.decay", "inner", "state"),
        parameter(f"{_MIXER}.D", "ssm.skip", "inner"),
        linear(f"{_MIXER}.out_proj", "ssm.out", "hidden", "inner", bias="use_bias"),
        norm("backbone.norm_f", "norm.final", "hidden"),
        linear("lm_head", "head", "vocab", "hidden", classes=("ForCausalLM",)),
    ),
    ties={"lm_head.weight": "backbone.embeddings.weight"},
    renames=((r"^backbone\.embedding\.", "backbone.embeddings."),),
    cache=(State("conv", "inner*kernel"), State("ssm", "inner*state")),
    work=(Work("ssm.scan", "inner*state"),),
)
