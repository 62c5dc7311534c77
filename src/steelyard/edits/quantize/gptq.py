"""GPTQ: round column by column and let the later columns make up for each error."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize import _scales
from steelyard.edits.quantize._grid import Grid
from steelyard.edits.quantize._rounded import Rounded, collect
from steelyard.edits.quantize.rtn import RtnOptions, round_to_nearest
from steelyard.edits.quantize.statistics import Factor, Statistics
from steelyard.edits.registry import method

# Rows of the weight worked on at a time: bounds memory, and is the same for any number of threads.
_ROWS = 1024

# Columns whose codes move between two matrix products.
_MOVED_TOGETHER = 64


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
        codes, scale, zero = compensated(rows, grid, factor, options)
        refined(rows, grid, factor, options, codes, scale, zero)
        pieces.append((codes, scale, zero))
    return collect(codec, pieces)


Solution = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Codes [in, out], scales [groups, out] and zero points [groups, out], all float64."""


def compensated(rows: np.ndarray, grid: Grid, factor: Factor, options: GptqOptions) -> Solution:
    """Round a matrix [in, out] column by column, with scales found on the way."""
    from steelyard.edits.quantize import _compensation

    search = _scales.Search.of(grid, options.search)
    group = grid.group_of()[factor.order]
    work = rows[factor.order]
    codes = np.empty_like(work)
    errors = np.empty_like(work)

    def round_columns(first: int, last: int) -> None:
        _compensation.compensate(
            work, factor.lower, first, last, options.block, scale, zero, group, grid.low, grid.high, codes, errors
        )

    if options.activation_order:
        scale, zero = _scales.choose(rows, factor.importance, grid, search)
        round_columns(0, len(work))
    else:
        scale, zero = np.empty((2, grid.groups, rows.shape[1]))
        for g, (first, last) in enumerate(pairwise(grid.bounds)):
            now = work[first:last] - factor.lower[first:last, :first] @ errors[:first]
            alone = replace(grid, bounds=np.array([0, last - first]))
            scale[g], zero[g] = (
                found[0] for found in _scales.choose(now, factor.importance[first:last], alone, search)
            )
            round_columns(first, last)
    stored = np.empty_like(codes)
    stored[factor.order] = codes
    return stored, scale, zero


def refined(
    rows: np.ndarray,
    grid: Grid,
    factor: Factor,
    options: GptqOptions,
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
) -> None:
    """Refit scales and codes in place, under the same second moment."""
    from steelyard.edits.quantize import _compensation

    group = grid.group_of()
    residual = rows - (codes - zero[group]) * scale[group]
    _compensation.refine(
        residual,
        factor.hessian,
        grid.bounds,
        _MOVED_TOGETHER,
        options.sweeps,
        grid.low,
        grid.high,
        grid.number,
        codes,
        scale,
        zero,
    )
