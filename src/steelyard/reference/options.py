"""What a training run of the reference model depends on."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class TrainOptions(BaseModel):
    """What a training run depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(4000, ge=1, description="optimizer steps in all")
    decay_steps: int = Field(800, ge=0, description="last steps, over which the learning rate falls to zero")
    warmup_steps: int = Field(100, ge=1, description="first steps, over which the learning rate rises")
    batch: int = Field(16, ge=1, description="sequences per step")
    sequence: int = Field(256, ge=8, description="tokens per sequence")
    matrix_rate: float = Field(0.02, gt=0, description="learning rate of the blocks' matrices (Muon)")
    other_rate: float = Field(0.004, gt=0, description="learning rate of embeddings and norms (AdamW)")
    weight_decay: float = Field(0.05, ge=0, description="weight decay of the blocks' matrices")
    seed: int = Field(0, description="seed of the initial weights and of the order of the data")
    vocabulary: int = Field(4096, ge=300, description="entries of the tokenizer")
    hidden: int = Field(256, description="width of the residual stream")
    ffn: int = Field(768, description="width of the feed-forward layers")
    layers: int = Field(7, ge=1, description="blocks")
    heads: int = Field(8, description="attention heads")
    kv_heads: int = Field(4, description="key and value heads")
    context: int = Field(1024, description="longest context declared in the config")
    save_every: int = Field(100, ge=1, description="steps between checkpoints")
    threads: int = Field(0, ge=0, description="threads of the matrix products; 0 for one per processor")
    compile: bool = Field(True, description="compile the model when a C++ compiler is at hand")

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with: everything but the length of the run and how it is executed."""
        return self.model_dump(exclude={"steps", "decay_steps", "save_every", "threads", "compile"})
