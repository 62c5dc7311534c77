"""What a training run of the reference model depends on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# They decide how long a run is or how it is executed, so a checkpoint may be continued with others.
_NOT_IDENTITY = {"steps", "decay_steps", "decay_stretch", "save_every", "threads", "compile"}
_SCHEDULE = {"steps", "decay_steps", "decay_stretch"}

Linears = Literal["float32", "bfloat16", "float8", "ternary"]
"""What the linear maps of the blocks compute in."""


class TrainOptions(BaseModel):
    """What a training run depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(3600, ge=1, description="optimizer steps in all")
    decay_steps: int = Field(800, ge=0, description="last steps, over which the learning rate falls to zero")
    warmup_steps: int = Field(100, ge=1, description="first steps, over which the learning rate rises")
    batch: int = Field(16, ge=1, description="sequences per step")
    sequence: int = Field(256, ge=8, description="tokens per sequence")
    decay_stretch: int = Field(
        2, ge=1, description="how many times longer, and fewer, the sequences are over the decay"
    )
    matrix_rate: float = Field(0.02, gt=0, description="learning rate of the blocks' matrices (Muon)")
    other_rate: float = Field(0.004, gt=0, description="learning rate of embeddings and norms (AdamW)")
    weight_decay: float = Field(0.05, ge=0, description="weight decay of the blocks' matrices")
    seed: int = Field(0, description="seed of the initial weights and of the order of the data")
    vocabulary: int = Field(4096, ge=300, le=65536, description="entries of the tokenizer")
    hidden: int = Field(256, ge=8, description="width of the residual stream")
    ffn: int = Field(768, ge=8, description="width of the feed-forward layers")
    architecture: Literal["llama", "mamba"] = Field("llama", description="kind of the blocks")
    linears: Linears = Field(
        "float32",
        description="what the blocks' linear maps compute in: ternary as in TriLM, float8 with a scale a tensor",
    )
    falling: Literal["late", "trilm"] = Field(
        "late",
        description="when the learning rate falls: over decay-steps, or TriLM's way, linearly from the start, with "
        "a lower peak from half-way and no weight decay over the last third",
    )
    state: int = Field(16, ge=1, description="states of each channel (mamba)")
    layers: int = Field(7, ge=1, description="blocks")
    heads: int = Field(8, ge=1, description="attention heads")
    kv_heads: int = Field(4, ge=1, description="key and value heads")
    save_every: int = Field(100, ge=1, description="steps between checkpoints")
    threads: int = Field(0, ge=0, description="threads of the matrix products; 0 for one per processor")
    compile: bool = Field(True, description="compile the model when a C++ compiler is at hand")

    @model_validator(mode="after")
    def _fits(self) -> TrainOptions:
        if self.decay_steps > self.steps:
            raise ValueError(f"decay_steps {self.decay_steps} exceeds steps {self.steps}")
        if self.batch % self.decay_stretch:
            raise ValueError(f"decay_stretch {self.decay_stretch} must divide batch {self.batch}")
        divides = self.hidden % self.heads == 0 and self.heads % self.kv_heads == 0
        if self.architecture == "llama" and not divides:
            raise ValueError(
                f"heads {self.heads} must divide hidden {self.hidden}, kv_heads {self.kv_heads} the heads"
            )
        return self

    @property
    def tokens_per_step(self) -> int:
        """How many tokens every step predicts."""
        return self.batch * self.sequence

    @property
    def decay_start(self) -> int:
        """The first step, from 0, of the decay."""
        return 0 if self.falling == "trilm" else self.steps - self.decay_steps

    def stretch_at(self, step: int) -> int:
        """How many times longer than `sequence` the sequences of a step (from 0) are."""
        return self.decay_stretch if self.falling == "late" and step >= self.decay_start else 1

    @property
    def context(self) -> int:
        """The longest sequence the model is trained on, and therefore declares."""
        return self.sequence * (self.stretch_at(self.steps - 1) if self.decay_steps else 1)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with: everything but the length of the run and how it is executed."""
        return self.model_dump(exclude=_NOT_IDENTITY)

    def schedule(self) -> dict[str, Any]:
        """What decides when and how the decay happens."""
        # TriLM's falls from the first step, so that no checkpoint leads to another length.
        whole = {"decay_steps": self.steps} if self.falling == "trilm" else {}
        return {**self.model_dump(include=_SCHEDULE), **whole}
