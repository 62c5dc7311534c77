"""Options of the `fit` job."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from steelyard.budget.menu import Effort

FormatName = Literal["auto", "compressed-tensors", "steelyard", "gguf", "dense"]


class FitOptions(BaseModel):
    """What to fit, with which means. Exactly one of size, bits, ratio and memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: str | int | None = Field(None, description="bytes of the result's weight files, such as 4MiB")
    bits: float | None = Field(None, description="bits per parameter, of everything stored")
    ratio: float | None = Field(None, description="share of the bytes of the model's weight files")
    memory: str | int | None = Field(None, description="bytes of weights and key-value cache, with --context")
    context: int | None = Field(None, description="tokens per sequence in the key-value cache")
    batch: int = Field(1, ge=1, description="sequences in the key-value cache")
    format: FormatName = Field("auto", description="how the result is stored")
    effort: Effort = Field("good", description="how many ways of storing are tried for each tensor")
    data: str | None = Field(None, description="calibration text: a file, a folder, JSONL, tokens, or none")
    eval_data: str | None = Field(None, description="text the result is measured on; held apart from --data")
    calibration: str | None = Field(None, description="file to keep the calibration in, and to take it from")
    sequences: int = Field(128, ge=1, description="calibration sequences")
    sequence_length: int = Field(256, ge=8, description="tokens per calibration sequence")
    eval_sequences: int = Field(128, ge=2, description="sequences the result is measured on")
    curve: tuple[float, ...] = Field((), description="also measure these bits per parameter")
    keep: tuple[str, ...] = Field((), description="regular expressions of tensors to leave as stored")
    policy: tuple[str, ...] = Field(
        (), description="experts-int8, glm-int4, keep-first=N, keep-last=N, keep=ROLE, ROLE:CODEC"
    )
    entropy: bool = Field(
        True, description="offer entropy-coded integers, which take the fewest bytes and longest to decode"
    )
    fuse: bool = Field(True, description="one codec for q, k, v and for gate, up of a layer, as vLLM needs")
    compare_formats: bool = Field(True, description="measure what the ecosystem format costs at equal bytes")
    verify: Literal["bytes", "load"] = Field("bytes", description="load: also load it in plain transformers")
    max_shard_size: str | int | None = Field(
        None, description="begin a new file above this size [5GB; gguf: one file whatever its size]"
    )
    seed: int = Field(0, description="seed of everything drawn")

    @field_validator("curve")
    @classmethod
    def _widths(cls, curve: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < width < math.inf for width in curve):
            raise ValueError("widths in bits are above zero and finite")
        return curve

    @model_validator(mode="after")
    def _one_budget(self) -> FitOptions:
        ways = {"size": self.size, "bits": self.bits, "ratio": self.ratio, "memory": self.memory}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of size, bits, ratio, memory; got {', '.join(given) or 'none'}")
        return self
