"""The reference model's architecture and its untrained weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from steelyard.reference.options import TrainOptions
from steelyard.seeds import generator

_DEVIATION = 0.02


def build_model(options: TrainOptions) -> Any:
    """Return the untrained `LlamaForCausalLM`, float32.

    Weights are drawn by name from the seed, the projections into the residual stream scaled down by the square
    root of their number (Radford et al. 2019, GPT-2); norms are 1.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
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
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0)
                continue
            scale = _DEVIATION
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                scale /= math.sqrt(2 * options.layers)
            draw = generator(options.seed, name).standard_normal(tuple(parameter.shape)).astype(np.float32)
            parameter.copy_(torch.from_numpy(draw * scale))
    return model
