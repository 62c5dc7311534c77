"""GPTQ: round column by column and let the later columns make up for each error."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize import _scales
from steelyard.edits.quantize._grid import Grid
from steelyard.edits.quantize._refine import refine
from steelyard.edits.quantize._rounded import Rounded, collect
from steelyard.edits.quantize.rtn import RtnOptions, round_to_nearest
from steelyard.edits.quantize.statistics import Factor, Statistics
from steelyard.edits.registry import method

# Rows of the weight worked on at a time: bounds memory, and is the same for any number of threads.
_ROWS = 1024


class GptqOptions(BaseModel):
    """Options of GPTQ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    damping: float = Field(
        default=0.01, gt=0, le=10, description="share of the mean input power added to every input"
    )
    activation_order: bool = Field(default=True, description="round the inputs with the largest power first")
    block: int = Field(default=128, ge=1, description="columns between two matrix products")
    search: bool = Field(default=True, description="search the scales; otherwise take them from the extremes")
    sweeps: int = Field(default=3, ge=0, description="sweeps that refit scales and codes after rounding")


@method(
    name="gptq",
    summary="round column by column; the later columns make up for each error",
    paper="Frantar et al. 2022, arXiv 2210.17323",
    options=GptqOptions,
)
def gptq(
    weight: np.ndarray,
    codec: IntegerCodec,
    statistics: Statistics,
    options: GptqOptions | None = None,
) -> Rounded:
    """Round a matrix so that the outputs on the calibration inputs change little.

    Args:
        weight: [out, in], any float dtype.
        codec: the integers to round to.
        statistics: of the inputs. Without a full second moment this is plain rounding with searched scales.
        options: see `GptqOptions`.

    Returns:
        The codes and scales, columns in their stored order: no index of groups is needed.

    Raises:
        UserError: if the statistics do not fit the matrix.

    Source: Frantar et al. 2022, arXiv 2210.17323, equations 2 and 3 with the Cholesky form of its section 3.
        With activation order the groups keep their stored columns and their scales are fixed beforehand;
        without it the scales of a group are searched when its turn comes, on the weights as they then are.
    """
    options = options or GptqOptions()
    columns = weight.shape[1]
    grid = Grid.of(codec, columns)
    factor = statistics.factor(columns, options.damping, options.activation_order)
    if factor is None:
        return round_to_nearest(weight, codec, statistics, RtnOptions(search=options.search))
    pieces = []
    for start in range(0, weight.shape[0], _ROWS):
        rows = np.ascontiguousarray(weight[start : start + _ROWS].T, dtype=np.float64)
        codes, scale, zero = _compensated(rows, grid, factor, options)
        if options.sweeps:
            refine(rows, grid, factor.hessian, options.sweeps, codes, scale, zero)
        pieces.append((codes, scale, zero))
    return collect(codec, pieces)


Solution = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Codes [in, out], scales [groups, out] and zero points [groups, out], all float64."""


def _compensated(rows: np.ndarray, grid: Grid, factor: Factor, options: GptqOptions) -> Solution:
    from steelyard.edits.quantize import _kernels

    if options.activation_order:
        scale, zero = _scales.choose_all(rows, factor.importance, grid, options.search)
    else:
        scale, zero = np.empty((2, grid.groups, rows.shape[1]))
    work = rows[factor.order]
    importance = factor.importance[factor.order]
    group = grid.group_of()[factor.order]
    codes = np.empty_like(work)
    errors = np.empty_like(work)
    for start, stop in _blocks(grid, options):
        # What the errors so far have left to this block, in one product: everything before `start` is final.
        inside = slice(start, stop)
        work[inside] -= factor.upper[:start, inside].T @ errors[:start]
        if not options.activation_order and start in grid.bounds:
            g = grid.bounds.index(start)
            whole = slice(start, grid.bounds[g + 1])
            now = work[whole].copy()
            now[stop - start :] -= factor.upper[:start, stop : whole.stop].T @ errors[:start]
            _scales.choose(now, importance[whole], grid, options.search, scale[g], zero[g])
        _kernels.compensate(
            work[inside],
            factor.upper[inside, inside],
            scale,
            zero,
            group[inside],
            grid.low,
            grid.high,
            codes[inside],
            errors[inside],
        )
    stored = np.empty_like(codes)
    stored[factor.order] = codes
    return stored, scale, zero


def _blocks(grid: Grid, options: GptqOptions) -> list[tuple[int, int]]:
    """Return the columns between two matrix products; a group whose scales are searched on the way begins one."""
    columns = grid.bounds[-1]
    if options.activation_order:
        starts = list(range(0, columns, options.block))
    else:
        starts = [
            start
            for first, last in zip(grid.bounds, grid.bounds[1:], strict=False)
            for start in range(first, last, options.block)
        ]
    return list(zip(starts, [*starts[1:], columns], strict=True))
