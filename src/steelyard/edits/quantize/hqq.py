"""Half-quadratic rounding: scales under which most errors are small and a few may be large. Needs no data."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize import _scales
from steelyard.edits.quantize._grid import Grid
from steelyard.edits.quantize._rounded import Rounded, collect
from steelyard.edits.quantize.statistics import Statistics
from steelyard.edits.registry import method

_ROWS = 1024


class HqqOptions(BaseModel):
    """Options of half-quadratic rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: float = Field(default=0.7, gt=0, lt=1, description="p of the l_p norm of the errors")
    strength: float = Field(default=10.0, gt=0, description="beta: how closely errors are followed at first")
    growth: float = Field(default=1.01, ge=1, description="kappa: growth of the strength in each iteration")
    iterations: int = Field(default=20, ge=1, description="half-quadratic iterations")


@method(
    name="hqq",
    summary="round to nearest, with scales of the least l_p error (p < 1), found without data",
    paper="Badri & Shaji 2023, Half-Quadratic Quantization",
    options=HqqOptions,
)
def half_quadratic(
    weight: np.ndarray,
    codec: IntegerCodec,
    statistics: Statistics | None = None,
    options: HqqOptions | None = None,
) -> Rounded:
    """Round every weight to the nearest code, under scales and zero points of the least sum of |w - q|^p.

    Half-quadratic splitting alternates between the errors that are explained away as outliers, by generalized soft
    thresholding, and the grid that fits what is left. The paper keeps the scale of the extremes and lets the zero
    point be any number. The zero points of the formats written here are codes, so the grid that is fitted is scale
    and zero point together, and errors are measured in steps.

    Args:
        weight: [out, in], any float dtype.
        codec: the integers to round to.
        statistics: not used.
        options: see `HqqOptions`.

    Returns:
        The codes and scales of the best iterate: the l_p error of a group is never above that of the grid of its
        extremes.

    Source: Badri & Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models", section 2.
    """
    from steelyard.edits.quantize import _half_quadratic, _kernels

    options = options or HqqOptions()
    grid = Grid.of(codec, weight.shape[1])
    search = _scales.Search.of(grid, False)
    group = grid.group_of()
    pieces = []
    for start in range(0, weight.shape[0], _ROWS):
        rows = np.ascontiguousarray(weight[start : start + _ROWS], dtype=np.float64)
        columns = np.ascontiguousarray(rows.T)
        found = _scales.choose(columns, np.ones(len(columns)), grid, search)
        scale, zero = (np.ascontiguousarray(part.T) for part in found)
        _half_quadratic.split(
            rows,
            grid.bounds,
            grid.low,
            grid.high,
            grid.symmetric,
            options.norm,
            options.strength,
            options.growth,
            options.iterations,
            grid.number,
            scale,
            zero,
        )
        scale, zero = np.ascontiguousarray(scale.T), np.ascontiguousarray(zero.T)
        codes = np.empty_like(columns)
        _kernels.round_columns(columns, scale, zero, group, grid.low, grid.high, codes)
        pieces.append((codes, scale, zero))
    return collect(codec, pieces)
