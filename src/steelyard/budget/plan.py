"""A plan: for every tensor how it is stored, with every byte accounted for. Executing it decides nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steelyard import codecs
from steelyard.codecs import Codec
from steelyard.formats import Format
from steelyard.formats.container import layout_of
from steelyard.spec import ModelSpec
from steelyard.weights.layout import Layout, StoredTensor

AS_STORED = "as stored"
"""What people are told of a tensor whose bytes stay."""


@dataclass(frozen=True)
class TensorPlan:
    """How one tensor of the result is made.

    Attributes:
        source: name of the tensor it is made from; differs from its own name where a tied copy is written.
        codec: how it is stored; None leaves the stored bytes as they are.
        rounding: name of the rounding method ("" where nothing is rounded).
        damage: predicted damage, None if it was not predicted.
    """

    source: str
    codec: Codec | None
    rounding: str = ""
    damage: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which `from_dict` builds the plan again."""
        return {
            "source": self.source,
            "codec": None if self.codec is None else self.codec.to_dict(),
            "rounding": self.rounding,
            "damage": self.damage,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TensorPlan:
        """Inverse of `to_dict`."""
        codec = None if data["codec"] is None else codecs.from_dict(data["codec"])
        return cls(data["source"], codec, data["rounding"], data["damage"])


@dataclass(frozen=True)
class Plan:
    """What a job will write.

    Attributes:
        format: name of the output format.
        tensors: every tensor of the result by name, in the order it is written.
        max_shard_size: bytes above which a new file is begun; None for what is usual in the format.
        request: what was asked for, as plain data: options, seeds, hashes of the inputs.
    """

    format: str
    tensors: Mapping[str, TensorPlan]
    max_shard_size: int | None
    request: Mapping[str, Any] = field(default_factory=dict)

    def codecs(self) -> dict[str, Codec]:
        """The codecs of the tensors that are not left as they are."""
        return {name: plan.codec for name, plan in self.tensors.items() if plan.codec is not None}

    def labels(self) -> dict[str, str]:
        """Return, for people, how each tensor is stored."""
        return {name: AS_STORED if plan.codec is None else plan.codec.label for name, plan in self.tensors.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which `from_dict` builds the plan again."""
        return {
            "format": self.format,
            "max_shard_size": self.max_shard_size,
            "request": dict(self.request),
            "tensors": {name: plan.to_dict() for name, plan in self.tensors.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Inverse of `to_dict`."""
        tensors = {name: TensorPlan.from_dict(item) for name, item in data["tensors"].items()}
        return cls(data["format"], tensors, data["max_shard_size"], data["request"])

    def hash(self) -> str:
        """Identity of the plan: same plan, same bytes written."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def stored_tensors(plan: Plan, spec: ModelSpec, format: Format) -> dict[str, list[StoredTensor]]:
    """Return, for every tensor of the plan, what is written for it."""
    stored: dict[str, list[StoredTensor]] = {}
    for name, item in plan.tensors.items():
        if item.codec is None:
            tensor = spec.tensors[item.source]
            stored[name] = [StoredTensor(name, tensor.dtype, tensor.shape)]
        else:
            stored[name] = format.stored(spec, name, item.codec)
    return stored


def plan_files(plan: Plan, spec: ModelSpec, format: Format) -> Layout:
    """Return the files the plan writes, to the byte."""
    stored = stored_tensors(plan, spec, format)
    return layout_of(format, [tensor for group in stored.values() for tensor in group], plan.max_shard_size)
