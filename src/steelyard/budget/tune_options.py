"""Options of the `tune` job."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TuneOptions(BaseModel):
    """What to train, how, and on what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str | None = Field(None, description="the model that MODEL was made from; MODEL itself with bits")
    method: str = Field("lsq", description="how codes are trained; see docs/tune.md")
    settings: tuple[str, ...] = Field((), description="settings of the method, such as rank=8")
    bits: int | None = Field(None, ge=2, le=8, description="quantize MODEL to so many bits first")
    group_size: int | None = Field(64, ge=16, le=256, description="with bits: columns under one scale")
    symmetric: bool = Field(True, description="with bits: no zero points")
    rounding: Literal["rtn", "gptq"] = Field("gptq", description="with bits: how the codes begin")
    format: Literal["compressed-tensors", "steelyard"] = Field(
        "compressed-tensors", description="with bits: how the result is stored"
    )
    embeddings: bool = Field(False, description="with bits: encode embedding tables too, where the format can")
    loss: Literal["kl", "tokens"] = Field("kl", description="divergence from the teacher, or the text itself")
    steps: int = Field(200, ge=1, description="updates")
    batch: int = Field(8, ge=1, description="sequences in a step")
    sequence_length: int = Field(256, ge=8, description="tokens per sequence")
    rate: float = Field(
        0.01, gt=0, description="how far an update moves a weight, as a share of a step of the grid"
    )
    step_rate: float = Field(
        0.003, gt=0, description="the same for scales, as a share of theirs, and for zero points"
    )
    save_every: int = Field(25, ge=1, description="steps between checkpoints")
    data: str | None = Field(None, description="text to train on: a file, a folder, JSONL, tokens")
    eval_data: str | None = Field(None, description="text the result is measured on; held apart from --data")
    calibration: str | None = Field(None, description="with bits: file to keep the calibration in")
    sequences: int = Field(128, ge=1, description="texts the model writes itself, where no data is given; twice")
    eval_sequences: int = Field(128, ge=2, description="sequences the result is measured on")
    seed: int = Field(0, description="seed of everything drawn")

    @model_validator(mode="after")
    def _consistent(self) -> TuneOptions:
        if self.bits is None and self.teacher is None:
            raise ValueError(
                "name the model it was made from with teacher, or say to how many bits a plain model is to be "
                "quantized first"
            )
        if self.data == "none":
            raise ValueError("training needs text; leave out data to have some chosen")
        return self
