"""What can be asked of alignment."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class AlignOptions(BaseModel):
    """How one model's units are put into the order of another's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["weights", "activations"] = Field(
        "weights", description="what decides which unit belongs to which"
    )
    sweeps: int = Field(50, ge=1, description="weights: the most passes over all spaces")
    correlate: bool = Field(True, description="activations: by correlation; otherwise by the inner product")
    data: str | None = Field(None, description="activations: text, as for fit")
    sequences: int = Field(64, ge=1, description="activations: windows of text")
    sequence_length: int = Field(128, ge=8, description="activations: tokens in a window")
    max_shard_size: str | int = Field("5GB", description="begin a new file above this size")
    seed: int = Field(0, description="seed of everything drawn")
