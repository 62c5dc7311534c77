"""What a table says about computing beside its matrices: the attentions of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from steelyard.spec.cache import Window, everything
from steelyard.spec.settings import Settings

TEXT = "text"
"""The stream of the text's tokens, on which everything works that a table says nothing else of."""


def every_block(settings: Settings, number: int) -> bool:
    """All blocks of the stack have it."""
    return True


@dataclass(frozen=True)
class Attention:
    """One kind of attention: products of queries with keys and of their weights with values.

    For q positions that attend to c others it takes 2 * heads * (key + value) * q * c operations a block.

    Attributes:
        heads: axis of the query heads.
        key: axis of one head's query and key.
        value: axis of one head's value.
        stack: axis that numbers the blocks it stands in: "layer", or another where a model has several stacks.
        blocks: which blocks of the stack have it.
        stream: of the queries.
        over: stream of the keys and values; the same as `stream` but for cross attention.
        causal: whether a position sees earlier ones alone.
        window: how many of the latest positions a block sees.
    """

    heads: str = "head"
    key: str = "head_dim"
    value: str = "head_dim"
    stack: str = "layer"
    blocks: Callable[[Settings, int], bool] = every_block
    stream: str = TEXT
    over: str = TEXT
    causal: bool = True
    window: Window = everything
