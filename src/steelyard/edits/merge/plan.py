"""What a merge will do with every tensor: plain data, decided before a byte is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from steelyard.edits.merge.base import Task
from steelyard.edits.merge.registry import MergeMethod
from steelyard.weights import DTYPES, Layout, StoredTensor, bytes_hash, plan_layout


@dataclass(frozen=True)
class Origin:
    """Where one row of a merge comes from.

    Attributes:
        model: number of the model in the plan.
        tensor: name of the tensor there.
    """

    model: int
    tensor: str


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the result.

    Attributes:
        name: of the tensor.
        shape: of the tensor and of all it is made of.
        dtype: safetensors type it is stored in.
        origins: what it is made of; one that is `copied` has a single origin.
        base: the row of the base model, None where there is none.
        options: of the method.
        parameters: what is set for each row.
        copied: whether its bytes are those of its origin.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    origins: tuple[Origin, ...]
    base: int | None = None
    options: BaseModel | None = None
    parameters: tuple[BaseModel, ...] = ()
    copied: bool = False

    @property
    def entries(self) -> int:
        """Number of entries."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        """Bytes in the result."""
        return DTYPES[self.dtype].nbytes(self.shape)

    def task(self, models: tuple[str, ...], seed: int) -> Task:
        """Return it as methods see it."""
        labels = tuple(models[origin.model] for origin in self.origins)
        return Task(self.name, self.shape, labels, self.base, self.parameters, seed)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "from": [[origin.model, origin.tensor] for origin in self.origins],
            "base": self.base,
            "options": None if self.options is None else self.options.model_dump(mode="json", by_alias=True),
            "parameters": [model.model_dump(mode="json", by_alias=True) for model in self.parameters],
            **({"copied": True} if self.copied else {}),
        }


@dataclass(frozen=True)
class MergePlan:
    """What a merge will do.

    Attributes:
        method: how it merges.
        models: labels of the inputs.
        identities: hash of each input.
        tensors: of the result, in the order in which they are worked on and shards are filled.
        config: config.json of the result.
        seed: of everything drawn.
        notes: sentences for people.
    """

    method: MergeMethod
    models: tuple[str, ...]
    identities: tuple[str, ...]
    tensors: tuple[PlannedTensor, ...]
    config: Mapping[str, Any]
    seed: int
    notes: tuple[str, ...] = ()

    def layout(self, max_shard_size: int) -> Layout:
        """Return where every byte of the result goes."""
        return plan_layout([StoredTensor(t.name, t.dtype, t.shape) for t in self.tensors], max_shard_size)

    def hash(self) -> str:
        """Return a hash of all that the weights of the result depend on."""
        work = [self.method.name, self.identities, self.seed, [(t.name, t.to_dict()) for t in self.tensors]]
        return bytes_hash(json.dumps(work, sort_keys=True).encode())

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "method": self.method.name,
            "models": list(self.models),
            "seed": self.seed,
            "tensors": {tensor.name: tensor.to_dict() for tensor in self.tensors},
        }
