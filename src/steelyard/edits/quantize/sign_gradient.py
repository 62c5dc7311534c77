"""Sign-gradient rounding: learn, for every weight, whether it is rounded up or down."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize import _scales
from steelyard.edits.quantize._grid import Grid
from steelyard.edits.quantize._rounded import Rounded, collect
from steelyard.edits.quantize.gptq import GptqOptions, refined
from steelyard.edits.quantize.rtn import RtnOptions, round_to_nearest
from steelyard.edits.quantize.statistics import Factor, Statistics
from steelyard.edits.registry import method

_ROWS = 512


class SignGradientOptions(RtnOptions):
    """Options of sign-gradient rounding."""

    iterations: int = Field(default=200, ge=1, description="steps of signed gradient descent")
    rate: float | None = Field(
        default=None, gt=0, description="first step in units of a code; 1 / iterations if null"
    )
    share_rate: float | None = Field(default=None, gt=0, description="the same for the ends of the range")
    reach: float = Field(default=0.5, ge=0, lt=1, description="how far the ends of the range may move, as a share")
    damping: float = Field(
        default=0.01, gt=0, le=10, description="share of the mean input power added to every input"
    )
    sweeps: int = Field(
        default=0, ge=0, description="sweeps that refit scales and codes afterwards; 0 is the paper"
    )


@method(
    name="sign-gradient",
    summary="learn by signed gradients which way each weight is rounded and where its range ends",
    paper="Cheng et al. 2023, arXiv 2309.05516",
    options=SignGradientOptions,
)
def sign_gradient(
    weight: np.ndarray,
    codec: IntegerCodec,
    statistics: Statistics | None = None,
    options: SignGradientOptions | None = None,
) -> Rounded:
    """Round a matrix by signed gradient descent on offsets before rounding and on both ends of each group's range.

    The loss is (w - q)^T H (w - q) of every row: the error of the matrix's own outputs over all calibration tokens
    at once. The paper runs the blocks of the network on batches of tokens; here one matrix is tuned by itself, so
    no forward pass is needed and no step is noisy. The step falls linearly to 0, and each row keeps its best codes.

    Args:
        weight: [out, in], any float dtype.
        codec: the integers to round to.
        statistics: of the inputs. Without a full second moment this is plain rounding with searched scales.
        options: see `SignGradientOptions`.

    Returns:
        The codes and scales; no row loses more than at the start, which is rounding to nearest.

    Raises:
        UserError: if the statistics do not fit the matrix.

    Source: Cheng et al. 2023, arXiv 2309.05516, equations 3 to 5 and algorithm 1.
    """
    options = options or SignGradientOptions()
    statistics = statistics or Statistics()
    grid = Grid.of(codec, weight.shape[1])
    factor = statistics.factor(weight.shape[1], options.damping, True)
    if factor is None:
        return round_to_nearest(weight, codec, statistics, RtnOptions(search=options.search))
    importance = statistics.importance(weight.shape[1])
    pieces = []
    for start in range(0, weight.shape[0], _ROWS):
        rows = np.ascontiguousarray(weight[start : start + _ROWS], dtype=np.float32)
        columns = np.ascontiguousarray(rows.T, dtype=np.float64)
        begun = _scales.choose(columns, importance, grid, _scales.Search.of(grid, options.search))
        codes, scale, zero = _descend(rows, begun, factor.hessian.astype(np.float32), grid, options)
        if options.sweeps:
            _sweep(columns, grid, factor, options, codes, scale, zero)
        pieces.append((codes, scale, zero))
    return collect(codec, pieces)


def _descend(
    rows: np.ndarray,
    begun: tuple[np.ndarray, np.ndarray],
    hessian: np.ndarray,
    grid: Grid,
    options: SignGradientOptions,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the best codes [in, out], scales and zero points [groups, out] met on the way, all float64."""
    from steelyard.edits.quantize import _sign_descent

    scale, zero = (np.ascontiguousarray(part.T) for part in begun)
    ends = np.stack([scale * (grid.low - zero), scale if grid.symmetric else scale * (grid.high - zero)])
    share = np.ones_like(ends)
    offset = np.zeros_like(rows)
    miss = np.empty_like(rows)
    codes = np.empty(rows.shape, np.int8)
    best = np.full(len(rows), np.inf, np.float32)
    kept = codes.copy(), scale.copy(), zero.copy()
    rate = options.rate or 1.0 / options.iterations
    share_rate = options.share_rate or 1.0 / options.iterations
    shape = grid.low, grid.high, grid.symmetric
    for step in range(options.iterations + 1):
        _sign_descent.forward(rows, offset, grid.bounds, ends, share, *shape, grid.number, scale, zero, codes, miss)
        slope = miss @ hessian
        loss = np.einsum("ij,ij->i", miss, slope)
        better = loss < best
        best[better] = loss[better]
        for place, now in zip(kept, (codes, scale, zero), strict=True):
            place[better] = now[better]
        left = 1.0 - step / options.iterations
        bounds = 1.0 - options.reach, 1.0 + options.reach
        _sign_descent.backward(
            rows,
            slope,
            grid.bounds,
            ends,
            *shape,
            rate * left,
            share_rate * left,
            *bounds,
            scale,
            zero,
            codes,
            offset,
            share,
        )
    found, best_scale, best_zero = (np.ascontiguousarray(part.T, dtype=np.float64) for part in kept)
    return found, best_scale, best_zero


def _sweep(
    columns: np.ndarray,
    grid: Grid,
    factor: Factor,
    options: SignGradientOptions,
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
) -> None:
    refined(columns, grid, factor, GptqOptions(sweeps=options.sweeps), codes, scale, zero)
