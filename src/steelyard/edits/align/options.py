"""What can be asked of alignment."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class AlignOptions(BaseModel):
    """How one model's units are put into the order of another's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["weights"] = Field("weights", description="what decides which unit belongs to which")
    sweeps: int = Field(50, ge=1, description="weights: the most passes over all spaces")
    max_shard_size: str | int = Field("5GB", description="begin a new file above this size")
    seed: int = Field(0, description="seed of everything drawn")
