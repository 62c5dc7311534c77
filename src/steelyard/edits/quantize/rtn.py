"""Round to nearest, with scales searched for the least error."""

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


class RtnOptions(BaseModel):
    """Options of rounding to nearest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: bool = Field(default=True, description="search the scales; otherwise take them from the extremes")


@method(
    name="rtn",
    summary="round to nearest, with scales that lose the least on inputs of the calibrated power",
    paper="",
    options=RtnOptions,
)
def round_to_nearest(
    weight: np.ndarray,
    codec: IntegerCodec,
    statistics: Statistics | None = None,
    options: RtnOptions | None = None,
) -> Rounded:
    """Round every weight to the nearest code of its group.

    Args:
        weight: [out, in], any float dtype.
        codec: the integers to round to.
        statistics: of the inputs; the mean square of each input weighs its errors. None weighs all alike.
        options: see `RtnOptions`.

    Returns:
        The codes and scales. With searched scales the weighted squared error of each group is never above that
        of scales taken from its extremes.

    Raises:
        UserError: if the statistics do not fit the matrix.
    """
    from steelyard.edits.quantize import _kernels

    options = options or RtnOptions()
    columns = weight.shape[1]
    grid = Grid.of(codec, columns)
    importance = (statistics or Statistics()).importance(columns)
    search = _scales.Search.of(grid, options.search)
    group = grid.group_of()
    pieces = []
    for start in range(0, weight.shape[0], _ROWS):
        rows = np.ascontiguousarray(weight[start : start + _ROWS].T, dtype=np.float64)
        scale, zero = _scales.choose(rows, importance, grid, search)
        codes = np.empty_like(rows)
        _kernels.round_columns(rows, scale, zero, group, grid.low, grid.high, codes)
        pieces.append((codes, scale, zero))
    return collect(codec, pieces)
