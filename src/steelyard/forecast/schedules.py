"""Learning rates step by step, and the areas under them that laws of one run's loss read."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.law import Array

Decay = Literal["constant", "cosine", "linear", "exponential"]


def schedule(
    steps: int, peak: float, end: float = 0.0, warmup: int = 0, decay: Decay = "cosine", begin: int | None = None
) -> Array:
    """Return the learning rate of every step, [steps].

    Args:
        steps: of the run.
        peak: after the warm-up.
        end: at the last step.
        warmup: steps from 0 to the peak, linearly.
        decay: how it falls; "constant" stays at the peak.
        begin: the step at which it begins to fall; right after the warm-up if absent.

    Raises:
        UserError: if the warm-up or the decay do not fit into the steps.
    """
    begin = warmup if begin is None else begin
    if not 0 <= warmup <= begin < steps:
        raise UserError(
            f"a schedule of {steps} steps has no room for a warm-up of {warmup} and a decay from {begin}"
        )
    step = np.arange(steps, dtype=float)
    rate = np.full(steps, peak)
    rate[:warmup] = peak * step[:warmup] / max(warmup, 1)
    if decay == "constant":
        return rate
    share = (step[begin:] - begin) / max(steps - 1 - begin, 1)
    if decay == "cosine":
        rate[begin:] = end + (peak - end) * 0.5 * (1 + np.cos(math.pi * share))
    elif decay == "linear":
        rate[begin:] = peak + (end - peak) * share
    else:
        if end <= 0:
            raise UserError("an exponential decay needs an end above zero")
        rate[begin:] = peak * (end / peak) ** share
    return rate


def areas(rate: Array, momentum: float = 0.999, warmup: int = 0) -> tuple[Array, Array]:
    """Return S1 and S2 of the law of annealing at every step, each [steps].

    S1 is the sum of learning rates; S2 the sum of m_i = momentum m_(i-1) + (rate_(i-1) - rate_i), counted after the
    warm-up (Tissue et al. 2024, arXiv:2408.11029).

    Args:
        rate: of every step.
        momentum: how long a fall of the rate goes on to act.
        warmup: steps whose rise is not counted as annealing.
    """
    from scipy.signal import lfilter

    fall = np.zeros(len(rate))
    fall[1:] = rate[:-1] - rate[1:]
    fall[: warmup + 1] = 0.0
    return np.cumsum(rate), np.cumsum(lfilter([1.0], [1.0, -momentum], fall))


def multi_power(rate: Array, at: Array, constants: tuple[float, float, float, float, float, float, float]) -> Array:
    """Return losses by the multi-power law (Luo et al. 2025, arXiv:2503.12811), [len(at)].

    L0 + A S(t)^-alpha - B sum_k (rate_(k-1) - rate_k) (1 - (1 + C rate_k^-gamma (S(t) - S(k-1)))^-beta)

    Args:
        rate: of every step.
        at: steps at which losses are wanted.
        constants: L0, A, alpha, B, C, beta, gamma, fitted with the rise of the warm-up counted as well.
    """
    level, a, alpha, b, c, beta, gamma = constants
    total = np.cumsum(rate)
    fall = np.zeros(len(rate))
    fall[1:] = rate[:-1] - rate[1:]
    falls = np.flatnonzero(fall)
    before = np.where(falls > 0, total[falls - 1], 0.0)
    strength = c * rate[falls] ** -gamma
    gained = np.zeros(len(at))
    for place, step in enumerate(np.asarray(at, dtype=int)):
        done = np.searchsorted(falls, step, side="right")
        reach = strength[:done] * (total[step] - before[:done])
        gained[place] = np.sum(fall[falls[:done]] * (1.0 - (1.0 + reach) ** -beta))
    return np.asarray(level + a * total[np.asarray(at, dtype=int)] ** -alpha - b * gained)
