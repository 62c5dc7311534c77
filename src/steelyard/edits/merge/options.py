"""What a merge may be told beside its recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.dialect.reading import DTYPES


class MergeOptions(BaseModel):
    """Options of `merge` that are not in the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, description="seed of everything drawn; each tensor of each model draws by itself")
    dtype: Literal["bfloat16", "float16", "float32"] | None = Field(
        None, description="element type of the result, instead of the recipe's out_dtype"
    )
    max_shard_size: str | int = Field("5GB", description="begin a new file above this size")
    allow_crimes: bool = Field(False, description="merge different architectures as far as names and shapes agree")
    intermediate: str | None = Field(
        None, description="folder for the results of named documents, instead of one that goes at the end"
    )
    hash_inputs: bool = Field(False, description="record a hash of every input file, which takes reading them all")
    workers: int | None = Field(None, ge=1, description="threads; as many as there are processors if absent")

    @property
    def element_type(self) -> str | None:
        """The safetensors name of `dtype`."""
        return None if self.dtype is None else DTYPES[self.dtype]


class MergeStepOptions(MergeOptions):
    """Options of the step `merge` of a recipe of Steelyard's."""

    recipe: str = Field(
        "merge.yml", description="YAML file in mergekit's dialect; `model` in it is the model the step begins with"
    )
