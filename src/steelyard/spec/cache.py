"""What a model keeps of what it has read: keys and values of every token, or states of recurrent blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from steelyard.errors import UserError
from steelyard.spec.settings import Settings

TEXT = "text"
"""The stream of the text's tokens, on which everything works that a table says nothing else of."""

Blocks = Callable[[Settings, int], bool]
"""Whether the block of a stack with that number is meant."""

Window = Callable[[Settings, int], int | None]
"""For a layer, the number of latest tokens it attends to; None for all of them."""


def every_block(settings: Settings, number: int) -> bool:
    """All blocks of the stack are meant."""
    return True


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
    else:
        slides = layer_kind(kinds, layer) == "sliding_attention"
    return settings.size_or_none("sliding_window") if slides else None


def alternating_window(period: Callable[[Settings], int], config: str = "") -> Window:
    """Gemma's window: in the layers that the config lists, or else in all but every `period`-th.

    Args:
        period: for configs that list no layers.
        config: start of its keys: "text_config." where they stand in a config of their own.
    """

    def window(settings: Settings, layer: int) -> int | None:
        kinds = settings.get(f"{config}layer_types")
        slides = (layer + 1) % period(settings) != 0
        if kinds is not None:
            slides = layer_kind(kinds, layer) == "sliding_attention"
        return settings.size_or_none(f"{config}sliding_window") if slides else None

    return window


def layer_kind(kinds: Any, layer: int) -> str:
    """Return what `layer_types` of a config says of a layer.

    Raises:
        UserError: if it says nothing.
    """
    if not isinstance(kinds, Sequence) or layer >= len(kinds):
        raise UserError(f"config.json: layer_types must list every layer, but says nothing of layer {layer}")
    return str(kinds[layer])


@dataclass(frozen=True)
class KeyValueCache:
    """What is kept for a token in each block: one key and one value for every head.

    Attributes:
        heads: axis of the heads that are kept; `kv_head` under grouped-query attention.
        width: axis of one head's keys, and of its values.
        window: how many tokens each layer keeps.
        value: axis of one head's values where it is not that of the keys; "" where it is.
        latent: axes whose lengths add up to what is enough to keep for a token, for attention that can restore
            keys and values of all heads from it (multi-head latent attention); empty where it cannot.
        stack: axis that numbers the blocks: "layer", or another where a model has several stacks.
        blocks: which blocks of the stack keep it.
        over: stream of the keys; another than the text's for cross attention.
    """

    heads: str
    width: str = "head_dim"
    window: Window = everything
    value: str = ""
    latent: tuple[str, ...] = ()
    stack: str = "layer"
    blocks: Blocks = every_block
    over: str = TEXT


@dataclass(frozen=True)
class State:
    """What a recurrent block keeps of a sequence, however long it is.

    Attributes:
        name: such as "conv" or "ssm".
        axes: named axes joined by "*", such as "inner*state".
        stack: axis that numbers the blocks.
        blocks: which blocks of the stack keep it.
    """

    name: str
    axes: str
    stack: str = "layer"
    blocks: Blocks = every_block


Kept = KeyValueCache | State
"""One kind of thing a model keeps of what it has read."""
