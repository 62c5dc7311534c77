"""What can be asked of alignment."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class AlignOptions(BaseModel):
    """How one model's units are put into the order of another's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["weights", "activations", "straight-through"] = Field(
        "weights", description="what decides which unit belongs to which"
    )
    sweeps: int = Field(50, ge=1, description="weights: the most passes over all spaces")
    correlate: bool = Field(True, description="activations: by correlation; otherwise by the inner product")
    steps: int = Field(50, ge=1, description="straight-through: steps of training")
    learning_rate: float = Field(0.003, gt=0, description="straight-through: of the weights that are matched")
    data: str | None = Field(None, description="activations, straight-through: text, as for fit")
    sequences: int = Field(64, ge=1, description="activations, straight-through: windows of text")
    sequence_length: int = Field(128, ge=8, description="activations, straight-through: tokens in a window")
    max_shard_size: str | int = Field("5GB", description="begin a new file above this size")
    seed: int = Field(0, description="seed of everything drawn")


class FuseOptions(BaseModel):
    """How two models become one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["otfusion", "pleas"] = Field(
        "otfusion", description="mix units by optimal transport, or join those that agree and fit the weights"
    )
    match: Literal["weights", "activations"] = Field("weights", description="what units are compared by")
    share: float = Field(0.5, ge=0, le=1, description="otfusion: of the second model in the mean")
    regularization: float = Field(
        0.0, ge=0, description="otfusion: weight of the plan's entropy, relative to the mean cost; 0 is exact"
    )
    sweeps: int = Field(1, ge=1, description="otfusion by weights: passes; the first sees incoming weights alone")
    reads: Literal["sum", "mean"] = Field(
        "sum",
        description="otfusion, different widths: how a unit that stands for several is read; mean is the paper's",
    )
    width: float = Field(1.0, ge=1, le=2, description="pleas: of the feed-forward, in widths of one model")
    heads: bool = Field(False, description="pleas: as many heads as the width says, too; otherwise all are joined")
    fit: bool = Field(True, description="pleas: fit the weights by least squares; otherwise permuted means")
    ridge: float = Field(
        1e-4, ge=0, description="pleas: how strongly weights are held at the permuted means, relative to the inputs"
    )
    data: str | None = Field(None, description="pleas, and matching activations: text, as for fit")
    sequences: int = Field(64, ge=1, description="windows of text")
    sequence_length: int = Field(128, ge=8, description="tokens in a window")
    dtype: Literal["keep", "float32"] = Field("keep", description="type of the fused weights")
    max_shard_size: str | int = Field("5GB", description="begin a new file above this size")
    seed: int = Field(0, description="seed of everything drawn")
