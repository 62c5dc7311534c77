"""GPTQ for codecs whose codes stand for numbers that are not evenly spaced: NF4, MXFP4, NVFP4, FP8, trits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.codecs import (
    BlockwiseCodec,
    Codec,
    Float8Codec,
    MicroscalingCodec,
    Nvfp4Codec,
    TernaryCodec,
    tables,
)
from steelyard.codecs.base import numpy_type
from steelyard.codecs.blockwise import pack_high_first
from steelyard.codecs.microscaling import power
from steelyard.codecs.ternary import pack_trits
from steelyard.edits.quantize import _levels
from steelyard.edits.quantize._grid import number_of
from steelyard.edits.quantize._levels import Levels
from steelyard.edits.quantize.statistics import Statistics
from steelyard.edits.registry import method
from steelyard.errors import UserError

# Rows worked on at a time.
_ROWS = 1024
# The number of a dtype whose scales are not to move.
_FIXED = np.zeros(5)

Write = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""Makes parts of places among the sorted levels [out, in] and scales [out, groups], float32."""


class ScalarOptions(BaseModel):
    """Options of GPTQ for uneven levels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    damping: float = Field(
        default=0.01, gt=0, le=10, description="share of the mean input power added to every input"
    )
    activation_order: bool = Field(default=True, description="round the inputs with the largest power first")
    block: int = Field(default=128, ge=1, description="columns between two matrix products")
    search: bool = Field(default=True, description="search the scales, where the codec's can be any number")
    sweeps: int = Field(default=3, ge=0, description="sweeps that refit scales and codes after rounding")


@dataclass(frozen=True)
class Chosen:
    """A matrix as a codec stores it.

    Attributes:
        codec: how.
        stored: its parts.
        shape: of the matrix.
    """

    codec: Codec
    stored: dict[str, np.ndarray]
    shape: tuple[int, int]

    def parts(self) -> dict[str, np.ndarray]:
        """Return the stored parts."""
        return self.stored

    def decode(self) -> np.ndarray:
        """Return the matrix as readers will see it, float32 [out, in]."""
        return self.codec.decode(self.stored, self.shape)


@dataclass(frozen=True)
class _Target:
    """Levels, the scales to keep [out, groups] (None to search them), and how parts are made."""

    levels: Levels
    scale: np.ndarray | None
    write: Write


@method(
    name="gptq-levels",
    summary="GPTQ for codecs of unevenly spaced levels: normal floats, MXFP4, NVFP4, FP8, trits",
    paper="Frantar et al. 2022, arXiv 2210.17323",
    options=ScalarOptions,
)
def gptq_levels(
    weight: np.ndarray,
    codec: BlockwiseCodec | Float8Codec | MicroscalingCodec | Nvfp4Codec | TernaryCodec,
    statistics: Statistics | None = None,
    options: ScalarOptions | None = None,
) -> Chosen:
    """Round a matrix column by column to the levels of a codec, later columns making up for each error.

    As `gptq`, but the nearest level is looked up. Scales of float types are searched beforehand and refitted
    afterwards, as are those of blockwise codes that are not quantized themselves; powers of two, 8-bit scales,
    quantized ones and those of 8-bit floats stay what the codec makes of the extremes. Trits under one scale for
    many rows, and blocks that do not divide the rows, are left to the codec's own encoder.

    Args:
        weight: [out, in], any float dtype.
        codec: what to round to.
        statistics: of the inputs. Without a full second moment levels are the nearest, under searched scales.
        options: see `ScalarOptions`.

    Returns:
        What is stored.

    Raises:
        UserError: if the statistics do not fit the matrix.
    """
    options = options or ScalarOptions()
    statistics = statistics or Statistics()
    wide = np.ascontiguousarray(weight, np.float32)
    shape = (wide.shape[0], wide.shape[1])
    target = _target(wide, codec)
    if target is None:
        return Chosen(codec, codec.encode(wide), shape)
    factor = statistics.factor(shape[1], options.damping, options.activation_order)
    importance = statistics.importance(shape[1]) if factor is None else factor.importance
    codes = np.empty(shape, np.int16)
    scales = np.empty((shape[0], len(target.levels.bounds) - 1), np.float32)
    for start in range(0, shape[0], _ROWS):
        piece = slice(start, start + _ROWS)
        rows = np.ascontiguousarray(wide[piece].T, dtype=np.float64)
        if target.scale is None:
            scale, _ = _levels.scales(rows, importance, target.levels, options.search)
        else:
            scale = np.ascontiguousarray(target.scale[piece].T, dtype=np.float64)
        if factor is None:
            found = _levels.nearest(rows, scale, target.levels)
        else:
            found = _levels.compensated(rows, scale, target.levels, factor, options.block, options.sweeps)
        codes[piece], scales[piece] = found.T, scale.T
    return Chosen(codec, target.write(codes, scales), shape)


def _target(wide: np.ndarray, codec: Codec) -> _Target | None:
    if isinstance(codec, BlockwiseCodec) and wide.shape[1] % codec.block == 0:
        return _blockwise(wide, codec)
    if isinstance(codec, TernaryCodec) and codec.rows == 1:
        return _ternary(wide, codec)
    if isinstance(codec, Nvfp4Codec) or (isinstance(codec, MicroscalingCodec) and codec.element == "F4_E2M1"):
        return _fp4(wide, codec)
    if isinstance(codec, Float8Codec | MicroscalingCodec):
        return _fp8(wide, codec)
    return None


def _blockwise(wide: np.ndarray, codec: BlockwiseCodec) -> _Target:
    columns = wide.shape[1]
    if columns % codec.block:
        raise UserError(f"blocks of {codec.label} do not divide rows of {columns}; choose another block")
    parts = codec.encode(wide)
    values, places = _sorted(codec.table_of(parts))
    bounds = _levels.bounds_of(columns, codec.block)
    scale = codec.absmax_of(parts).reshape(len(wide), -1) if codec.double else None

    def write(codes: np.ndarray, scales: np.ndarray) -> dict[str, np.ndarray]:
        packed = pack_high_first(places[codes].reshape(-1), codec.bits).reshape(-1, 1)
        changed = {} if codec.double else {"absmax": scales.reshape(-1, 1)}
        return {**parts, "weight_packed": packed, **changed}

    return _Target(Levels(values, bounds, _FIXED if codec.double else number_of("F32")), scale, write)


def _ternary(wide: np.ndarray, codec: TernaryCodec) -> _Target:
    bounds = _levels.bounds_of(wide.shape[1], codec.columns)
    kind = {"BF16": "BF16", "F16": "F16", "F32": "F32"}[codec.scale_dtype]

    def write(codes: np.ndarray, scales: np.ndarray) -> dict[str, np.ndarray]:
        signed = (codes - 1) * np.sign(scales)[:, np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))]
        return {
            "weight_packed": pack_trits(signed.astype(np.int8)),
            "weight_scale": codec.representable(np.abs(scales)),
        }

    return _Target(Levels(np.array([-1.0, 0.0, 1.0]), bounds, number_of(kind)), None, write)


def _fp4(wide: np.ndarray, codec: Nvfp4Codec | MicroscalingCodec) -> _Target:
    parts = codec.encode(wide)
    values, places = _sorted(tables.e2m1())
    if isinstance(codec, Nvfp4Codec):
        scale = parts["weight_scale"].astype(np.float32) / parts["weight_global_scale"]
    else:
        scale = power(parts["weight_scale"])
    # A group of zeros has a scale of 0, under which every code is as good.
    scale = np.where(scale > 0, scale, np.float32(1))

    def write(codes: np.ndarray, scales: np.ndarray) -> dict[str, np.ndarray]:
        return {**parts, "weight_packed": tables.pack_low_first(places[codes])}

    return _Target(Levels(values, _levels.bounds_of(wide.shape[1], codec.group_size), _FIXED), scale, write)


def _fp8(wide: np.ndarray, codec: Float8Codec | MicroscalingCodec) -> _Target:
    parts = codec.encode(wide)
    kind = numpy_type(codec.dtype if isinstance(codec, Float8Codec) else codec.element)
    table = np.arange(256, dtype=np.uint8).view(kind).astype(np.float32)
    finite = np.flatnonzero(np.isfinite(table))
    values, places = _sorted(table[finite])
    if isinstance(codec, Float8Codec):
        group, height = codec.columns, codec.rows or len(wide)
        scale = np.repeat(parts["weight_scale"].astype(np.float32), height, axis=0)[: len(wide)]
    else:
        group, scale = codec.group_size, power(parts["weight_scale"])

    def write(codes: np.ndarray, scales: np.ndarray) -> dict[str, np.ndarray]:
        return {**parts, "weight": finite.astype(np.uint8)[places[codes]].view(kind)}

    return _Target(Levels(values, _levels.bounds_of(wide.shape[1], group), _FIXED), scale, write)


def _sorted(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values of a table in order, float64, and the first code of each, uint8."""
    values, first = np.unique(table, return_index=True)
    return values.astype(np.float64), first.astype(np.uint8)
