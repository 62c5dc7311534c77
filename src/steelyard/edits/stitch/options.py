"""What can be asked of stitching and of bridges."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from steelyard.formats.native.composition import parse_joint


class JoinOptions(BaseModel):
    """What stitches and bridges have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: tuple[str, ...] = Field((), description="where: blocks of the first model, a colon, of the second: 1:2,2:3")
    data: str | None = Field(None, description="text to fit and measure with, as for fit; a quarter is held out")
    sequences: int = Field(64, ge=1, description="windows of text to fit on")
    sequence_length: int = Field(256, ge=8, description="tokens in a window")
    batch: int = Field(8, ge=1, description="windows in a step of training")
    learning_rate: float = Field(1e-3, gt=0, description="greatest, of AdamW")
    warmup: int = Field(10, ge=0, description="steps over which it rises; it falls to zero with a cosine")
    eval_sequences: int = Field(64, ge=1, description="windows to measure on")
    max_shard_size: str | int = Field("5GB", description="begin a new file above this size")
    seed: int = Field(0, description="seed of everything drawn")

    @field_validator("at", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(value.split(",")) if isinstance(value, str) else value

    @field_validator("at")
    @classmethod
    def _joints(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                parse_joint(text)
            except Exception as error:
                raise ValueError(str(error)) from None
        return value


class StitchOptions(JoinOptions):
    """How two models are stitched together."""

    window: int = Field(2, ge=1, description="models of one depth: blocks among which all are joined with all")
    steps: int = Field(0, ge=0, description="steps of training the maps, in each another stitch; both models stay")
    flops: float | None = Field(
        None, gt=0, description="run the best way of at most so many operations a token, instead of the best stitch"
    )


class StitchStepOptions(StitchOptions):
    """Options of the step `stitch` of a recipe."""

    second: str = Field("reference", description="the model that goes on where this one is left")


class BridgeOptions(JoinOptions):
    """How an anchor is given bridges to an augmenting model, and how they are trained."""

    bridges: int = Field(2, ge=1, description="how many, spread over both models, where --at names none")
    heads: int | None = Field(None, ge=1, description="of attention in a bridge; as many as the anchor's if absent")
    steps: int = Field(200, ge=0, description="steps of training; 0 leaves the anchor as it is")


class BridgeStepOptions(BridgeOptions):
    """Options of the step `bridge` of a recipe."""

    second: str = Field("reference", description="the model that the anchor, this one, attends to")
