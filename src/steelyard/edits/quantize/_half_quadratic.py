"""The loop of half-quadratic splitting, compiled by numba; see `_kernels` for the layout."""

from __future__ import annotations

import numpy as np

from steelyard.edits.quantize._kernels import entry, inner, to_code, to_scale, to_zero


@inner
def _loss(
    weight: np.ndarray,
    low: float,
    high: float,
    scale: float,
    zero: float,
    norm: float,
    codes: np.ndarray,
    powers: np.ndarray,
) -> float:
    """Write the nearest codes of one group of one row and |w - q|^norm; return the sum of the latter."""
    total = 0.0
    for j in range(weight.shape[0]):
        codes[j] = to_code(weight[j] / scale + zero, low, high)
        powers[j] = abs(weight[j] - (codes[j] - zero) * scale) ** norm
        total += powers[j]
    return total


@inner
def _split(
    weight: np.ndarray,
    low: float,
    high: float,
    symmetric: bool,
    norm: float,
    strength: float,
    growth: float,
    iterations: int,
    number: np.ndarray,
    scale: float,
    zero: float,
) -> tuple[float, float]:
    """Return the scale and the zero point of the best iterate for one group of one row."""
    count = weight.shape[0]
    codes, powers = np.empty(count), np.empty(count)
    reach = 0.0
    for j in range(count):
        reach = max(reach, abs(weight[j]))
    if reach == 0.0:
        return scale, zero
    best = _loss(weight, low, high, scale, zero, norm, codes, powers)
    best_scale, best_zero = scale, zero
    for _ in range(iterations):
        sum_w = sum_c = sum_wc = sum_cc = 0.0
        step = abs(scale) ** (2.0 - norm)
        for j in range(count):
            # Generalized soft threshold |e| - |e|^(p-1) / beta with e in steps, so that beta means the same at any
            # magnitude of the weights; what is left of an error is an outlier.
            miss = weight[j] - (codes[j] - zero) * scale
            size = abs(miss)
            left = max(size - step * powers[j] / (size * strength), 0.0) if size > 0.0 else 0.0
            target = weight[j] - (left if miss > 0.0 else -left)
            sum_w += target
            sum_c += codes[j]
            sum_wc += target * codes[j]
            sum_cc += codes[j] * codes[j]
        if not symmetric:
            variance = sum_cc * count - sum_c * sum_c
            slope = (sum_wc * count - sum_w * sum_c) / variance if variance > 0.0 else 0.0
            if slope > 0.0:
                zero = to_zero((sum_c - sum_w / slope) / count, low, high, number)
        below = sum_cc - 2.0 * zero * sum_c + zero * zero * count
        if below > 0.0:
            scale = to_scale((sum_wc - zero * sum_w) / below, number)
        now = _loss(weight, low, high, scale, zero, norm, codes, powers)
        if now < best:
            best, best_scale, best_zero = now, scale, zero
        strength *= growth
    return best_scale, best_zero


@entry
def split(
    weight: np.ndarray,
    bounds: np.ndarray,
    low: float,
    high: float,
    symmetric: bool,
    norm: float,
    strength: float,
    growth: float,
    iterations: int,
    number: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
) -> None:
    """Move the scales and zero points of all groups to where the l_p error is least.

    Args:
        weight: [rows, in]: here rows are worked on one by one, as the powers do not vectorize.
        bounds: [groups + 1], first column of each group, then the number of columns.
        low: smallest code.
        high: largest code.
        symmetric: whether the zero point stays 0.
        norm: p.
        strength: beta of the first iteration, for errors in units of the step.
        growth: kappa, by which it grows.
        iterations: how many.
        number: the scale's dtype, see `_kernels.to_scale`.
        scale: [rows, groups], where to begin; changed in place.
        zero: [rows, groups], changed in place.
    """
    for r in range(weight.shape[0]):
        for g in range(bounds.shape[0] - 1):
            scale[r, g], zero[r, g] = _split(
                weight[r, bounds[g] : bounds[g + 1]],
                low,
                high,
                symmetric,
                norm,
                strength,
                growth,
                iterations,
                number,
                scale[r, g],
                zero[r, g],
            )
