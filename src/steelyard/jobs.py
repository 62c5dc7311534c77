"""What every job begins with: a model opened for reading, its spec, and its identity."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from steelyard.errors import UserError
from steelyard.spec import ModelSpec
from steelyard.weights import Checkpoint, FolderWriter, data_hash

REFERENCE = "reference"
"""Stands for the bundled reference model wherever a model is named."""

_MADE = frozenset({"config.json", "steelyard.json", "report.html"})
"""What every job makes anew, or leaves out, rather than carry over from the model's folder."""


@dataclass(frozen=True)
class OpenModel:
    """A model opened for reading; use it in a `with` block.

    Attributes:
        location: as it was given.
        checkpoint: its tensors and files.
        spec: what it is.
    """

    location: str
    checkpoint: Checkpoint
    spec: ModelSpec

    def identity(self) -> str:
        """Return one hash of all files that make up the model."""
        return data_hash(self.checkpoint.content_hash())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.checkpoint.close()


def resolve(location: str | Path) -> str:
    """Return the location itself, or the bundled reference model's folder for the word `reference`."""
    if str(location) == REFERENCE and not Path(REFERENCE).exists():
        from steelyard import reference

        return str(reference.path())
    return str(location)


def open_model(location: str | Path) -> OpenModel:
    """Open a model: read its headers and config, and check that its shapes are those of its config.

    Raises:
        UserError: for anything missing, damaged or contradictory.
    """
    checkpoint = Checkpoint.open(resolve(location))
    try:
        if not checkpoint.names:
            raise UserError(f"{location} holds no tensors")
        spec = ModelSpec.build(checkpoint.config, checkpoint.shapes())
        untied = [alias for alias in spec.stored_aliases if not _equal(checkpoint, alias, spec.ties[alias])]
        if untied:
            # transformers does not tie what is stored twice with different values.
            spec = ModelSpec.build(checkpoint.config, checkpoint.shapes(), untied)
    except BaseException:
        checkpoint.close()
        raise
    return OpenModel(str(location), checkpoint, spec)


def add_model_files(
    writer: FolderWriter, checkpoint: Checkpoint, config: Mapping[str, Any], made: Collection[str] = ()
) -> None:
    """Write what makes weights a model: the config, and a checkpoint's tokenizer and other files as they are.

    Args:
        writer: of the staging folder.
        checkpoint: whose other files go along.
        config: content of config.json.
        made: names of files that the job makes anew, beside those that every job does.
    """
    writer.add_file("config.json", (json.dumps(config, indent=2) + "\n").encode())
    left = _MADE.union(made)
    writer.carry(checkpoint, [name for name in checkpoint.other_files if name not in left])


def _equal(checkpoint: Checkpoint, first: str, second: str) -> bool:
    a, b = checkpoint.tensor(first), checkpoint.tensor(second)
    return a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8))
