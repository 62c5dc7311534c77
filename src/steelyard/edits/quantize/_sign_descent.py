"""One step of sign-gradient rounding, compiled by numba."""

from __future__ import annotations

import numpy as np

from steelyard.edits.quantize._kernels import entry, to_code, to_scale, to_zero


@entry
def forward(
    weight: np.ndarray,
    offset: np.ndarray,
    bounds: np.ndarray,
    ends: np.ndarray,
    share: np.ndarray,
    low: float,
    high: float,
    symmetric: bool,
    number: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    codes: np.ndarray,
    miss: np.ndarray,
) -> None:
    """Round every weight under the present offsets and ends of the range.

    Args:
        weight: float32 [rows, in].
        offset: float32 [rows, in], added before rounding, within half a step.
        bounds: [groups + 1], first column of each group, then the number of columns.
        ends: [2, rows, groups], what the least and the greatest code stood for at the start; if symmetric the
            second is the scale and the first is not used.
        share: [2, rows, groups], of the ends that is in use.
        low: smallest code.
        high: largest code.
        symmetric: whether the zero points are 0.
        number: the scale's dtype, see `_kernels.to_scale`.
        scale: [rows, groups], written.
        zero: [rows, groups], written.
        codes: int8 [rows, in], written.
        miss: float32 [rows, in], written: q - w.
    """
    for r in range(weight.shape[0]):
        for g in range(bounds.shape[0] - 1):
            if symmetric:
                step = to_scale(share[1, r, g] * ends[1, r, g], number)
                shift = -0.5 if high == 0.0 else 0.0
            else:
                first, last = share[0, r, g] * ends[0, r, g], share[1, r, g] * ends[1, r, g]
                step = to_scale((last - first) / (high - low), number)
                shift = to_zero(low - first / step, low, high, number)
            scale[r, g], zero[r, g] = step, shift
            for j in range(bounds[g], bounds[g + 1]):
                code = to_code(weight[r, j] / step + offset[r, j] + shift, low, high)
                codes[r, j] = np.int8(code)
                miss[r, j] = (code - shift) * step - weight[r, j]


@entry
def backward(
    weight: np.ndarray,
    slope: np.ndarray,
    bounds: np.ndarray,
    ends: np.ndarray,
    low: float,
    high: float,
    symmetric: bool,
    rate: float,
    share_rate: float,
    least: float,
    most: float,
    scale: np.ndarray,
    zero: np.ndarray,
    codes: np.ndarray,
    offset: np.ndarray,
    share: np.ndarray,
) -> None:
    """Move offsets and ends against the sign of their gradients; rounding passes gradients straight through.

    Args:
        weight: float32 [rows, in].
        slope: float32 [rows, in], gradient of the loss with respect to q.
        bounds: first column of each group, then the number of columns.
        ends: see `forward`.
        low: smallest code.
        high: largest code.
        symmetric: whether the zero points are 0.
        rate: by which offsets move.
        share_rate: by which shares of the ends move.
        least: smallest share of an end.
        most: largest share of an end.
        scale: [rows, groups].
        zero: [rows, groups].
        codes: int8 [rows, in].
        offset: float32 [rows, in], changed in place.
        share: [2, rows, groups], changed in place.
    """
    levels = high - low
    for r in range(weight.shape[0]):
        for g in range(bounds.shape[0] - 1):
            step, shift = scale[r, g], zero[r, g]
            by_scale = by_zero = 0.0
            for j in range(bounds[g], bounds[g + 1]):
                code = float(codes[r, j])
                place = weight[r, j] / step
                inside = low - 0.5 < place + offset[r, j] + shift < high + 0.5
                by_scale += slope[r, j] * (code - shift - (place if inside else 0.0))
                if inside:
                    moved = offset[r, j] - rate * np.sign(slope[r, j]) * np.sign(step)
                    offset[r, j] = min(max(moved, -0.5), 0.5)
                else:
                    by_zero -= slope[r, j] * step
            if symmetric:
                gradient = by_scale * ends[1, r, g]
            else:
                first = share[0, r, g] * ends[0, r, g]
                # zero = low - first / scale, and scale = (last - first) / levels.
                from_scale = by_scale + by_zero * first / (step * step)
                gradient = from_scale * ends[1, r, g] / levels
                lower = -from_scale * ends[0, r, g] / levels - by_zero * ends[0, r, g] / step
                share[0, r, g] = min(max(share[0, r, g] - share_rate * np.sign(lower), least), most)
            share[1, r, g] = min(max(share[1, r, g] - share_rate * np.sign(gradient), least), most)
