"""The reference models' architectures and their untrained weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from steelyard.reference.options import TrainOptions
from steelyard.seeds import generator

_DEVIATION = 0.02
_FASTEST_STEP, _SLOWEST_STEP = 0.1, 0.001


def build_model(options: TrainOptions) -> Any:
    """Return the untrained transformers model, float32: `LlamaForCausalLM` or `MambaForCausalLM`.

    Weights are drawn by name from the seed, the projections into the residual stream scaled down by the square
    root of their number (Radford et al. 2019, GPT-2); norms are 1. What is Mamba's own begins as its paper has it
    (Gu and Dao 2023, section 3.6).
    """
    import torch

    model = _BUILDERS[options.architecture](options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(_initial(name, tuple(parameter.shape), options)))
    return model


def matrices(model: Any) -> list[str]:
    """Return the names of the weights of the blocks' linear maps."""
    import torch

    return [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    ]


def _llama(options: TrainOptions) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=options.vocabulary,
            hidden_size=options.hidden,
            intermediate_size=options.ffn,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            num_key_value_heads=options.kv_heads,
            max_position_embeddings=options.context,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            rms_norm_eps=1e-5,
        )
    )


def _mamba(options: TrainOptions) -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    from steelyard.measure.mamba import use_fast_mixers

    model = MambaForCausalLM(
        MambaConfig(
            vocab_size=options.vocabulary,
            hidden_size=options.hidden,
            num_hidden_layers=options.layers,
            state_size=options.state,
            expand=2,
            conv_kernel=4,
            time_step_rank=math.ceil(options.hidden / 16),
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    use_fast_mixers(model)
    return model


_BUILDERS: dict[str, Callable[[TrainOptions], Any]] = {"llama": _llama, "mamba": _mamba}


def _initial(name: str, shape: tuple[int, ...], options: TrainOptions) -> np.ndarray:
    """Return the first value of a parameter, float32."""
    draw = generator(options.seed, name)
    leaf = name.removesuffix(".weight").rsplit(".", 1)[-1]
    if name.endswith("A_log"):
        return np.log(np.broadcast_to(np.arange(1, shape[1] + 1, dtype=np.float32), shape))
    if name.endswith("dt_proj.bias"):
        # Time steps spread evenly in their logarithm; softplus makes them from the bias.
        step = np.exp(draw.uniform(math.log(_SLOWEST_STEP), math.log(_FASTEST_STEP), shape))
        return np.asarray(np.log(np.expm1(step)), np.float32)
    if name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    if len(shape) < 2:
        return np.ones(shape, np.float32)
    if leaf in ("conv1d", "dt_proj"):
        bound = shape[-1] ** -0.5
        return draw.uniform(-bound, bound, shape).astype(np.float32)
    scale = _DEVIATION
    if leaf in ("o_proj", "down_proj"):
        scale /= math.sqrt(2 * options.layers)
    elif leaf == "out_proj":
        scale /= math.sqrt(options.layers)
    return draw.standard_normal(shape).astype(np.float32) * np.float32(scale)
