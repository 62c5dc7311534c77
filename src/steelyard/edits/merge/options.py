"""What a merge may be told beside its recipe."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steelyard.edits.merge.dialect.reading import DTYPES

FormatName = Literal[
    "dense", "compressed-tensors", "steelyard", "gguf", "gptq", "gptq-v2", "awq", "bitsandbytes", "fp8"
]

_FITTED = ("compressed-tensors", "steelyard", "gguf", "dense")

ASIDE = frozenset(
    {
        "workers",
        "engine",
        "cluster",
        "intermediate",
        "hash_inputs",
        "stage",
        "format",
        "type",
        "mix",
        "size",
        "bits",
    }
)
"""Options on which the bytes of the merged weights do not depend."""


class WritingOptions(BaseModel):
    """How the result of a merge is made and stored, whatever is merged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["bfloat16", "float16", "float32"] | None = Field(
        None, description="element type of the result, instead of the recipe's out_dtype"
    )
    max_shard_size: str | int = Field("5GB", description="begin a new file above this size")
    hash_inputs: bool = Field(False, description="record a hash of every input file, which takes reading them all")
    format: FormatName | None = Field(
        None, description="how the result is stored, rounded if need be; dense if neither this nor a size is given"
    )
    type: str | None = Field(None, description="gguf: one type for every matrix, such as Q4_K")
    mix: str | None = Field(None, description="gguf: llama.cpp's own mix of types, such as Q4_K_M")
    size: str | int | None = Field(
        None, description="bytes of the result's weight files, such as 4MiB, as fit does"
    )
    bits: float | None = Field(None, description="bits per parameter of everything stored, as fit does")
    stage: str | None = Field(
        None, description="local folder for a result on its way to a URL; the current one if absent"
    )
    engine: Literal["threads", "ray"] = Field("threads", description="what does the work; ray is a cluster's")
    cluster: str | None = Field(
        None, description="ray: address of the cluster, or auto; the processors of this machine if absent"
    )
    workers: int | None = Field(
        None, ge=1, description="threads, or workers of a cluster; as many as there are processors if absent"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.size is not None and self.bits is not None:
            raise ValueError("give one of size and bits: both are budgets of bytes")
        if (self.type or self.mix) and self.format != "gguf":
            raise ValueError("type and mix name types of GGUF; they need format gguf")
        if self.type and self.mix:
            raise ValueError("give one of type and mix")
        if (self.type or self.mix) and self.budgeted:
            raise ValueError("a size buys a type for each matrix: leave out type and mix, or the size")
        if self.budgeted and self.format not in (None, *_FITTED):
            raise ValueError(f"{self.format} is not fitted to a size; formats that are: {', '.join(_FITTED)}")
        if self.cluster is not None and self.engine != "ray":
            raise ValueError("cluster is for engine ray")
        return self

    @property
    def budgeted(self) -> bool:
        """Whether the result is fitted to a size."""
        return self.size is not None or self.bits is not None

    @property
    def shaped(self) -> bool:
        """Whether the result is stored in another way than plain numbers in safetensors."""
        return self.budgeted or self.format not in (None, "dense")

    @property
    def element_type(self) -> str | None:
        """The safetensors name of `dtype`."""
        return None if self.dtype is None else DTYPES[self.dtype]


class MergeOptions(WritingOptions):
    """Options of `merge` that are not in the recipe."""

    seed: int = Field(0, description="seed of everything drawn; each tensor of each model draws by itself")
    allow_crimes: bool = Field(False, description="merge different architectures as far as names and shapes agree")
    intermediate: str | None = Field(
        None, description="folder for the results of named documents, instead of one that goes at the end"
    )


class MergeLoraOptions(WritingOptions):
    """Options of `merge-lora`."""

    adapter: str = Field("", description="folder of the adapter, as peft saves it")


class MergeStepOptions(MergeOptions):
    """Options of the step `merge` of a recipe of Steelyard's."""

    recipe: str = Field(
        "merge.yml", description="YAML file in mergekit's dialect; `model` in it is the model the step begins with"
    )
