"""The key-value cache: what attention keeps for every token of the context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from steelyard.errors import UserError
from steelyard.spec.settings import Settings

Window = Callable[[Settings, int], int | None]
"""For a layer, the number of latest tokens it attends to; None for all of them."""


def everything(settings: Settings, layer: int) -> int | None:
    """Every layer attends to the whole context."""
    return None


def switched_window(settings: Settings, layer: int) -> int | None:
    """Qwen's window: behind a switch; newer configs list the layers it holds for, older ones the first of them."""
    if not settings.flag("use_sliding_window"):
        return None
    kinds = settings.get("layer_types")
    if kinds is None:
        slides = layer >= settings.size("max_window_layers", least=0)
    elif isinstance(kinds, Sequence) and layer < len(kinds):
        slides = kinds[layer] == "sliding_attention"
    else:
        raise UserError(f"config.json: layer_types must list every layer, but says nothing of layer {layer}")
    return settings.size_or_none("sliding_window") if slides else None


@dataclass(frozen=True)
class KeyValueCache:
    """What is kept for a token in each layer: one key and one value for every head.

    Attributes:
        heads: axis of the heads that are kept; `kv_head` under grouped-query attention.
        width: axis of one head's keys, and of its values.
        window: how many tokens each layer keeps.
    """

    heads: str
    width: str = "head_dim"
    window: Window = everything
