"""Formats whose weights do not lie in safetensors files: what they decide beside what every format does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Self

from steelyard.codecs import Codec
from steelyard.formats.base import Format
from steelyard.spec import ModelSpec, TensorSpec
from steelyard.units import parse_size
from steelyard.weights import Checkpoint, Layout, StoredTensor, entry_bytes_bound, plan_layout
from steelyard.weights.layout import DEFAULT_SHARD_BYTES


class Container(ABC):
    """A format with weight files of its own kind. Every tensor it writes has a codec; nothing is left as it lies.

    Attributes:
        fuses: whether engines need one codec for the tensors they run as one.
    """

    fuses = False

    @abstractmethod
    def bound_to(self, checkpoint: Checkpoint, spec: ModelSpec) -> Self:
        """Return the format for one model: its files may hold more than tensors, such as the vocabulary.

        Raises:
            UserError: if such a model cannot be written.
        """

    @abstractmethod
    def kept(self, spec: ModelSpec, name: str) -> Codec | None:
        """Return what a tensor is stored as where nothing is bought for it; None if it is left out."""

    def together(self, spec: ModelSpec, name: str) -> str:
        """Return what the tensors share that must have one codec in the files; a tensor's own name if nothing."""
        return name

    @abstractmethod
    def menu(self, spec: ModelSpec, tensors: Sequence[TensorSpec], effort: str) -> Iterator[Codec]:
        """Yield what may be bought for tensors that share one codec."""

    @abstractmethod
    def layout(self, tensors: Sequence[StoredTensor], max_shard_size: int | None) -> Layout:
        """Return the files, to the byte; one file without a size above which a new one is begun."""

    @abstractmethod
    def entry_bytes(self, tensor: StoredTensor) -> int:
        """Return the most bytes that a tensor adds to a file beside its data."""


def bound(format: Format, checkpoint: Checkpoint, spec: ModelSpec) -> Format:
    """Return a format as it writes one model."""
    if isinstance(format, Container):
        ready: Format = format.bound_to(checkpoint, spec)
        return ready
    return format


def layout_of(format: Format, tensors: Sequence[StoredTensor], max_shard_size: int | None) -> Layout:
    """Return the files in which a format puts tensors, to the byte.

    Args:
        format: the format.
        tensors: in the order of the files.
        max_shard_size: bytes above which a new file is begun; None for what is usual in the format.
    """
    if isinstance(format, Container):
        return format.layout(tensors, max_shard_size)
    return plan_layout(tensors, DEFAULT_SHARD_BYTES if max_shard_size is None else max_shard_size)


def shard_bytes(size: str | int | None) -> int | None:
    """Return the bytes of a size above which a new file is begun; None where none is given.

    Raises:
        UserError: if it is no size.
    """
    return None if size is None else parse_size(size)


def entry_bytes(format: Format, tensor: StoredTensor, digits: int) -> int:
    """Return an upper bound of the bytes a tensor adds to a format's files beside its data.

    Args:
        format: the format.
        tensor: what is stored.
        digits: of the largest offset in a file.
    """
    if isinstance(format, Container):
        return format.entry_bytes(tensor)
    return entry_bytes_bound(tensor, digits)
