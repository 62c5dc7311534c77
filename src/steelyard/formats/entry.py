"""How one encoded tensor is stored, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from steelyard.codecs import Codec, Parts, split
from steelyard.weights import Checkpoint

BLOB = "blob"


@dataclass(frozen=True)
class Entry:
    """One encoded tensor.

    Attributes:
        codec: how it is encoded.
        shape: of its matrix, (out, in).
        stored: the stored tensors that stand for it, by what the layout calls each; `BLOB` for all parts in one.
        layout: the layout's name in messages, "" for a blob.
        translate: turns the stored arrays into the codec's parts; None for a blob, and where they are the parts.
        transposed: the model has it as [in, out].
    """

    codec: Codec
    shape: tuple[int, int]
    stored: Mapping[str, str]
    layout: str = ""
    translate: Callable[[Entry, Mapping[str, np.ndarray]], Parts] | None = None
    transposed: bool = False

    def parts(self, checkpoint: Checkpoint) -> Parts:
        """Read the parts as the codec has them.

        Raises:
            UserError: if what is stored contradicts what the config says of it.
        """
        if BLOB in self.stored:
            return split(checkpoint.tensor(self.stored[BLOB]), self.codec, self.shape)
        arrays = {part: checkpoint.tensor(name) for part, name in self.stored.items()}
        return arrays if self.translate is None else self.translate(self, arrays)
