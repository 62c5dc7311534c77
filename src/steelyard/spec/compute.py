"""What a table says about computing beside its matrices: attentions, recurrences, matrices used twice."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.spec.cache import TEXT, Blocks, Window, every_block, everything

__all__ = ["TEXT", "Attention", "Work", "every_block"]


@dataclass(frozen=True)
class Attention:
    """One kind of attention: products of queries with keys and of their weights with values.

    For q positions that attend to c others it takes 2 * heads * (key + value) * q * c operations a block.

    Attributes:
        heads: axis of the query heads.
        key: axis of one head's query and key.
        value: axis of one head's value; "" for products of queries and keys alone.
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
    blocks: Blocks = every_block
    stream: str = TEXT
    over: str = TEXT
    causal: bool = True
    window: Window = everything


@dataclass(frozen=True)
class Work:
    """Operations that are no product with a stored matrix of its own: scans, or a matrix on a second stream.

    It takes times * the product of the axes' lengths operations for every position of the stream in every block.

    Attributes:
        role: what they are booked under, such as "ssm.scan".
        axes: named axes joined by "*", such as "inner*state".
        times: operations for each element; two for a multiplication and an addition.
        stack: axis that numbers the blocks; "" for work done once, outside of the blocks.
        blocks: which blocks of the stack do it.
        stream: whose positions it is done for.
    """

    role: str
    axes: str
    times: int = 2
    stack: str = "layer"
    blocks: Blocks = every_block
    stream: str = TEXT
