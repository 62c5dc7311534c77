"""Rounding to the block types of GGUF, later columns making up for the errors of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.codecs.gguf import GgufCodec
from steelyard.codecs.gguf.layouts import Fields
from steelyard.codecs.gguf.types import LEVELS
from steelyard.edits.quantize.statistics import Factor, Statistics
from steelyard.edits.registry import method
from steelyard.errors import UserError

# Stands for a scale of 0, which the loops divide by: whatever the code, what is decoded is as good as 0.
_NO_SCALE = 1e-30
_ROWS = 1024


class GgufOptions(BaseModel):
    """Options of rounding to GGUF's blocks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    damping: float = Field(default=0.01, ge=0.0, description="share of the mean input power added to every input")
    block: int = Field(default=128, ge=1, description="columns between two matrix products")


@dataclass(frozen=True)
class Blocks:
    """A matrix as blocks of GGUF.

    Attributes:
        codec: their type.
        fields: what they hold.
        columns: of the matrix.
    """

    codec: GgufCodec
    fields: Fields
    columns: int

    def parts(self) -> dict[str, np.ndarray]:
        """Return the blocks."""
        return self.codec.from_fields(self.fields)

    def decode(self) -> np.ndarray:
        """Return the matrix as readers will see it, float32 [out, in]."""
        return np.ascontiguousarray(self.codec.decode_fields(self.fields)[:, : self.columns])


@method(
    name="gguf",
    summary="blocks of GGUF: scales and minima searched for the calibrated power, columns rounded as by GPTQ",
    paper="Frantar et al. 2022, arXiv 2210.17323, for the rounding under scales chosen beforehand",
    options=GgufOptions,
)
def gguf(
    weight: np.ndarray,
    codec: GgufCodec,
    statistics: Statistics | None = None,
    options: GgufOptions | None = None,
) -> Blocks:
    """Round a matrix to blocks of one of GGUF's types.

    Args:
        weight: [out, in], any float dtype.
        codec: the type.
        statistics: of the inputs. With their full second moment each column's error is made up for by later
            columns, under scales searched with what an error then still costs; with its diagonal, or for types
            whose levels are a table, codes are the nearest ones.
        options: see `GgufOptions`.

    Raises:
        UserError: if the codec is another, the statistics do not fit the matrix, or scales lie beyond float16.
    """
    if not isinstance(codec, GgufCodec):
        raise UserError(f"gguf rounds to GGUF's types, not to {codec.label}; use gptq, or fit --format gguf")
    options = options or GgufOptions()
    statistics = statistics or Statistics()
    columns = weight.shape[1]
    levels = LEVELS[codec.kind]
    linear = not levels.table and columns % codec.block == 0
    factor = statistics.factor(columns, options.damping, True) if linear else None
    if factor is None:
        known = statistics.second_moment is not None
        return Blocks(codec, codec.search(weight, statistics.importance(columns) if known else None), columns)
    fields = codec.search(weight, factor.importance)
    codes = np.empty_like(fields.codes)
    for start in range(0, len(weight), _ROWS):
        rows = slice(start, start + _ROWS)
        part = Fields(fields.floats[:, rows], fields.whole[:, rows], fields.codes[rows])
        codes[rows] = _compensated(weight[rows], codec, part, factor, options)
    return Blocks(codec, replace(fields, codes=codes), columns)


def _compensated(
    weight: np.ndarray, codec: GgufCodec, fields: Fields, factor: Factor, options: GgufOptions
) -> np.ndarray:
    """Return codes [out, in] under given scales and minima."""
    from steelyard.edits.quantize import _compensation

    levels = LEVELS[codec.kind]
    scale, least = (np.ascontiguousarray(part.T, np.float64) for part in codec.scales(fields))
    scale = np.where(scale == 0.0, _NO_SCALE, scale)
    # weight = (code - zero) * scale
    zero = {"": np.full_like(scale, -levels.low), "below": least / scale, "any": -least / scale}[levels.minimum]
    work = np.ascontiguousarray(weight.T, np.float64)[factor.order]
    codes, errors = np.empty_like(work), np.empty_like(work)
    group = (np.arange(len(work)) // levels.each)[factor.order]
    high = float(levels.high - levels.low)
    _compensation.compensate(
        work, factor.lower, 0, len(work), options.block, scale, zero, group, 0.0, high, codes, errors
    )
    stored = np.empty(codes.shape[::-1], np.uint8)
    stored[:, factor.order] = codes.T.astype(np.uint8)
    return stored
