"""What a job would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DryRun:
    """What a job would do, every byte accounted for.

    Attributes:
        model: location of the model.
        budget: in bytes.
        asked: in words.
        format: name of the output format.
        smallest: bytes of the smallest feasible result.
        nbytes: bytes of the plan; one made without a calibration spends a budget otherwise than `fit` will.
        tensors: way of storing by tensor.
        resources: memory and time the job takes, in words.
        notes: sentences for people.
    """

    model: str
    budget: int
    asked: str
    format: str
    smallest: int
    nbytes: int
    tensors: Mapping[str, str]
    resources: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "model": self.model,
            "budget": self.budget,
            "asked": self.asked,
            "format": self.format,
            "smallest": self.smallest,
            "bytes": self.nbytes,
            "tensors": dict(self.tensors),
            "resources": self.resources,
            "notes": list(self.notes),
        }
