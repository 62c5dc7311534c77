"""Codecs whose bytes begin with those of every smaller version of themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from steelyard.codecs.base import Codec, Parts, Shape


@dataclass(frozen=True)
class NestedCodec(Codec):
    """A codec of several levels: the parts of a level are the first parts of every higher one, byte for byte.

    So the first `at(level).nbytes(shape)` bytes of a blob are the blob of that level: one file serves every size, a
    loaded tensor sheds levels by forgetting its tail and grows by reading more of the file.
    """

    @property
    @abstractmethod
    def level(self) -> int:
        """The level these bytes reach."""

    @property
    @abstractmethod
    def lowest(self) -> int:
        """The least level there is."""

    @abstractmethod
    def at(self, level: int) -> Self:
        """Return the codec of a level between `lowest` and `level`, or above it.

        Raises:
            UserError: below `lowest`, or above what the codec can be.
        """

    @property
    def levels(self) -> tuple[Self, ...]:
        """The codec at each of its levels, lowest first and itself last."""
        return tuple(self.at(level) for level in range(self.lowest, self.level + 1))

    def first_parts(self, parts: Mapping[str, np.ndarray], shape: Shape) -> Parts:
        """Return those of the parts of a higher level that make up this one."""
        return {key: parts[key] for key in self.parts(shape)}
