"""Configs that parse but describe no model."""

from __future__ import annotations

from steelyard.errors import UserError
from steelyard.spec.architecture import Architecture
from steelyard.spec.settings import Settings


def check_heads(architecture: Architecture, settings: Settings) -> None:
    """Refuse heads that do not divide what they share.

    Raises:
        UserError: naming both numbers.
    """
    axes = architecture.sizes
    if "head" not in axes:
        return
    heads = architecture.axis_size("head", settings)
    if "kv_head" in axes:
        shared = architecture.axis_size("kv_head", settings)
        if shared < 1 or heads % shared:
            raise UserError(
                f"config.json: {heads} attention heads cannot share {shared} key-value heads evenly; correct "
                "num_attention_heads or num_key_value_heads"
            )
    if "head_dim" in axes and "hidden" in axes:
        hidden, width = (architecture.axis_size(axis, settings) for axis in ("hidden", "head_dim"))
        if width < 1 or (hidden // heads == width and hidden % heads):
            raise UserError(
                f"config.json: a hidden size of {hidden} does not divide into {heads} heads; correct one of them "
                "or give head_dim"
            )
