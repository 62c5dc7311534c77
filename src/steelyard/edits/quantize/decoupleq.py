"""decoupleQ: alternate between the integers and the affine numbers, each solved for the other."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize._grid import Grid
from steelyard.edits.quantize._rounded import Rounded, collect
from steelyard.edits.quantize.gptq import GptqOptions, compensated, refined
from steelyard.edits.quantize.rtn import RtnOptions, round_to_nearest
from steelyard.edits.quantize.statistics import Statistics
from steelyard.edits.registry import method

# Rows worked on at a time: bounds memory, and is the same for any number of threads.
_ROWS = 1024


class DecoupleqOptions(GptqOptions):
    """Options of decoupleQ: those of GPTQ, which solves the integer problem, and the number of rounds."""

    rounds: int = Field(default=4, ge=1, description="times that affine numbers and integers are solved in turn")


@method(
    name="decoupleq",
    summary="solve scales and zero points of all groups at once, then the integers, in turn",
    paper="Guo et al. 2024, arXiv 2404.12759",
    options=DecoupleqOptions,
)
def decoupleq(
    weight: np.ndarray,
    codec: IntegerCodec,
    statistics: Statistics | None = None,
    options: DecoupleqOptions | None = None,
) -> Rounded:
    """Round a matrix by alternating minimization of (w - q)^T H (w - q) of every row.

    Given the codes, the scales and zero points of all groups of a row are one least-squares problem, solved as a
    whole; given those, the integers are found by GPTQ with its sweeps. A round is kept for the rows it improves.
    Zero points are codes in the formats written here, so the affine problem is solved once with free zero points,
    which are rounded, and again for the scales.

    Args:
        weight: [out, in], any float dtype.
        codec: the integers to round to.
        statistics: of the inputs. Without a full second moment this is plain rounding with searched scales.
        options: see `DecoupleqOptions`.

    Returns:
        The codes and scales; the error of no row is above that of GPTQ with the same options.

    Raises:
        UserError: if the statistics do not fit the matrix.

    Source: Guo et al. 2024, arXiv 2404.12759, equations 4 to 9.
    """
    from steelyard.edits.quantize import _affine, _compensation

    options = options or DecoupleqOptions()
    statistics = statistics or Statistics()
    grid = Grid.of(codec, weight.shape[1])
    factor = statistics.factor(weight.shape[1], options.damping, options.activation_order)
    if factor is None:
        return round_to_nearest(weight, codec, statistics, RtnOptions(search=options.search))
    group = grid.group_of()
    ordered = np.ascontiguousarray(group[factor.order])
    pieces = []
    for start in range(0, weight.shape[0], _ROWS):
        rows = np.ascontiguousarray(weight[start : start + _ROWS].T, dtype=np.float64)
        codes, scale, zero = compensated(rows, grid, factor, options)
        refined(rows, grid, factor, options, codes, scale, zero)
        best = _row_errors(rows, codes, scale, zero, group, factor.hessian)
        image = factor.hessian @ rows
        for _ in range(options.rounds):
            trial_scale, trial_zero = scale.copy(), zero.copy()
            _affine.solve(
                codes,
                image,
                factor.hessian,
                grid.bounds,
                grid.low,
                grid.high,
                grid.symmetric,
                trial_scale,
                trial_zero,
            )
            trial_scale = grid.stored(trial_scale)
            if codec.bits == 1:
                trial_zero = grid.stored(trial_zero)
            trial_codes, errors = np.empty((2, *codes.shape))
            _compensation.compensate(
                rows[factor.order],
                factor.lower,
                0,
                len(rows),
                options.block,
                trial_scale,
                trial_zero,
                ordered,
                grid.low,
                grid.high,
                trial_codes,
                errors,
            )
            stored = np.empty_like(trial_codes)
            stored[factor.order] = trial_codes
            refined(rows, grid, factor, options, stored, trial_scale, trial_zero)
            loss = _row_errors(rows, stored, trial_scale, trial_zero, group, factor.hessian)
            better = loss < best
            if not better.any():
                break
            codes[:, better], scale[:, better], zero[:, better] = (
                part[:, better] for part in (stored, trial_scale, trial_zero)
            )
            best[better] = loss[better]
        pieces.append((codes, scale, zero))
    return collect(codec, pieces)


def _row_errors(
    rows: np.ndarray, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray, group: np.ndarray, hessian: np.ndarray
) -> np.ndarray:
    """Return (w - q)^T H (w - q) of every row, float64 [out]."""
    miss = rows - (codes - zero[group]) * scale[group]
    errors: np.ndarray = np.einsum("ir,ir->r", miss, hessian @ miss)
    return errors
