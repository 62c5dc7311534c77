"""A model as preparations see it: who reads and who writes which channels, and its forward pass in float64."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from steelyard.errors import UserError

if TYPE_CHECKING:
    from steelyard.spec import ModelSpec

Read = Callable[[str], np.ndarray]
"""Returns a tensor of the model in float64 by name."""


@dataclass(frozen=True)
class Pair:
    """Channels that one tensor writes and others read, with nothing nonlinear between: a scale can move across.

    Attributes:
        writer: name of the norm's or the linear map's weight.
        readers: names of the linear maps' weights.
        repeat: how many heads in a row read each of the writer's heads (grouped-query attention), else 1.
        block: channels in a head, or all of them.
        rows: first and last + 1 of the writer's rows that write them, and how many it has, where it writes
            others too.
    """

    writer: str
    readers: tuple[str, ...]
    repeat: int = 1
    block: int = 0
    rows: tuple[int, int, int] | None = None

    def written(self, weight: np.ndarray) -> np.ndarray:
        """Return the rows of the writer's weight that write these channels."""
        return weight if self.rows is None else weight[self.rows[0] : self.rows[1]]

    def widened(self, factor: np.ndarray) -> np.ndarray:
        """Return a vector of scales or a matrix [n, n] for all rows of the writer that leaves the others alone."""
        if self.rows is None:
            return factor
        first, end, total = self.rows
        if factor.ndim == 1:
            wide = np.ones(total)
            wide[first:end] = factor
            return wide
        whole = np.eye(total)
        whole[first:end, first:end] = factor
        return whole


@dataclass(frozen=True)
class Network(ABC):
    """The sizes of a model and the names of its tensors.

    Attributes:
        layers: number of blocks.
        hidden: channels of the residual stream.
        epsilon: of the norms.
        tied: whether the head is the embedding table.
        names: of every tensor stored.
        embed: name of the embedding table.
        final_norm: name of the last norm.
        head: name of the head.
        families: the model types of this kind.
    """

    layers: int
    hidden: int
    epsilon: float
    tied: bool
    names: frozenset[str]
    embed: str
    final_norm: str
    head: str
    families: ClassVar[tuple[str, ...]]

    @staticmethod
    def of(spec: ModelSpec) -> Network:
        """Return the network of a model.

        Raises:
            UserError: if the model is of an unknown family, is quantized already, or has no head.
        """
        from steelyard.edits.prepare.bert import BertNetwork
        from steelyard.edits.prepare.llama import LlamaNetwork
        from steelyard.edits.prepare.mamba import MambaNetwork

        every: tuple[type[Network], ...] = (LlamaNetwork, MambaNetwork, BertNetwork)
        kinds = {family: kind for kind in every for family in kind.families}
        kind = kinds.get(str(spec.model_type))
        if kind is None or spec.architecture is None:
            known = ", ".join(kinds)
            raise UserError(
                f"preparation knows the model types {known}, not {spec.model_type or 'an unnamed one'!r}"
            )
        packed = [
            tensor.name
            for tensor in spec.tensors.values()
            if not (tensor.is_plain_float or tensor.role == "buffer")
        ]
        if packed:
            raise UserError(f"{packed[0]} is not a plain float tensor; prepare the model before it is quantized")
        return kind.read(spec)

    @classmethod
    @abstractmethod
    def read(cls, spec: ModelSpec) -> Network:
        """Return the network of a spec of plain floats.

        Raises:
            UserError: if it lacks a tensor that is needed.
        """

    def bias(self, weight: str) -> str | None:
        """Return the name of the bias that goes with a weight, if it is stored."""
        name = weight.removesuffix(".weight") + ".bias"
        return name if name in self.names else None

    @abstractmethod
    def readers_of_the_stream(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield every norm of the residual stream with the linear maps behind it; the head's is last."""

    @abstractmethod
    def writers_to_the_stream(self) -> Iterator[str]:
        """Yield the weights of the linear maps that add to the residual stream."""

    @abstractmethod
    def pairs(self, norms: bool = True) -> Iterator[Pair]:
        """Yield everything across which a scale can move.

        Args:
            norms: whether those from a norm are among them; else only those between two linear maps.
        """

    def scores(self) -> Iterator[tuple[str, str, int]]:
        """Yield the weights of queries and keys of each layer, and the channels of a head.

        There are none where positions are rotary: they stand between the two.
        """
        yield from ()

    @abstractmethod
    def inner_spaces(self) -> Iterator[Pair]:
        """Yield the pairs of linear maps between which channels of one block may be mixed by any matrix."""

    @abstractmethod
    def logits(self, read: Read, tokens: np.ndarray) -> np.ndarray:
        """Run the model in float64, one block of weights at a time.

        Args:
            read: its tensors by name; the head under its own name even if it is tied.
            tokens: [sequences, length].

        Returns:
            float64 [sequences, length, vocabulary].
        """

    def norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return the root-mean-square norm of the last axis."""
        scaled: np.ndarray = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.epsilon) * weight
        return scaled

    def linear(self, read: Read, x: np.ndarray, weight: str) -> np.ndarray:
        """Return x W^T and the bias, where there is one."""
        bias = self.bias(weight)
        out: np.ndarray = x @ read(weight).T
        return out if bias is None else out + read(bias)


def require_head(spec: ModelSpec, head: str) -> bool:
    """Tell whether a language model's head is tied.

    Raises:
        UserError: if it has none.
    """
    if head not in spec.ties and head not in spec.tensors:
        raise UserError(f"{spec.model_type} without {head}: only language models are prepared")
    return head in spec.ties


def silu(x: np.ndarray) -> np.ndarray:
    """Return x / (1 + exp(-x))."""
    result: np.ndarray = x / (1.0 + np.exp(-x))
    return result
