"""What a job would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from steelyard.errors import UserError


class CannotPlan(UserError):
    """A step of which the headers of its model do not tell what it writes; it may well be carried out."""


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
        leaves: what a later step begins with: codes, a model whose names, shapes and types are those of `model`, or
            something other.
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
    leaves: Literal["model", "codes", "other"] = "codes"

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


def check_plain(before: DryRun | None) -> None:
    """Let a step that reads a plain model be planned from the headers of the recipe's own.

    Args:
        before: the plan of the step before it, None for the first step.

    Raises:
        CannotPlan: if that step leaves other headers.
    """
    if before is not None and before.leaves != "model":
        found = "codes" if before.leaves == "codes" else "tensors of other types or shapes"
        raise CannotPlan(f"it reads a plain model, and the step before it leaves {found} that are not there yet")
