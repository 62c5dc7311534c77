"""Abilities that seem to come at once: what a coarse measure hides, and how sharp a rise is.

A share of passed tasks of 1e-4 reads as zero in a hundred trials. Trying until a fixed number of passes resolves
any share (Hu et al. 2023, arXiv:2310.03262), and its logarithm follows the law `pass-until`. A score that asks for
k tokens all right at once is the k-th power of a smooth one (Schaeffer et al. 2023, arXiv:2304.15004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.law import Array


@dataclass(frozen=True)
class Share:
    """A share of trials that pass.

    Attributes:
        value: the most likely one; 0 where nothing passed.
        low: of its interval.
        high: its other end.
    """

    value: float
    low: float
    high: float


def pass_until(passes: int, trials: int, level: float = 0.95) -> Share:
    """Return the share that passes, from the trials that it took to see some passes.

    Args:
        passes: seen; 0 where trying was given up.
        trials: all of them, the last of which passed where any did.
        level: of the interval, exact for trials that stop at a fixed number of passes; an upper bound where
            nothing passed.

    Raises:
        UserError: if the numbers contradict each other.
    """
    from scipy.stats import beta

    if not 0 <= passes <= trials or trials < 1:
        raise UserError(f"{passes} passes in {trials} trials cannot be")
    if not 0 < level < 1:
        raise UserError(f"the level of an interval is between 0 and 1, not {level:g}")
    if passes == 0:
        return Share(0.0, 0.0, 1.0 - (1.0 - level) ** (1.0 / trials))
    rest = 0.5 * (1.0 - level)
    low = float(beta.ppf(rest, passes, trials - passes + 1))
    high = 1.0 if passes == trials else float(beta.ppf(1.0 - rest, passes, trials - passes))
    return Share(passes / trials, low, high)


def resolution(trials: int, level: float = 0.95) -> float:
    """Return the smallest share of passes that so many trials show at least once, at a level of certainty."""
    return pass_until(0, trials, level).high


def per_token(score: Array, length: Array | float) -> Array:
    """Return the share of right tokens that a share of answers with all `length` tokens right comes from.

    Raises:
        UserError: if a score is no share or a length is below one.
    """
    score, length = np.asarray(score, dtype=float), np.asarray(length, dtype=float)
    if ((score < 0) | (score > 1)).any() or (length < 1).any():
        raise UserError("a score of exact matches is a share between 0 and 1 of answers of at least one token")
    return np.asarray(score ** (1.0 / length))


def breakthroughness(scores: Sequence[float] | Array) -> float:
    """Return how sudden a rise is: the gain over the root of the median square of steps.

    With sign: of the place of the best score against that of the worst (Srivastava et al. 2022, arXiv:2206.04615,
    appendix B, without its division by the number of sizes). A straight line of n scores has n - 1, one jump in a
    flat line infinity, no change at all 0.

    Args:
        scores: by size, the smallest model first.

    Raises:
        UserError: if there are fewer than three.
    """
    values = np.asarray(scores, dtype=float)
    if values.ndim != 1 or len(values) < 3:
        raise UserError(f"how sudden a rise is takes the scores of three sizes at least, not {values.size}")
    gain = float(values.max() - values.min()) * (1.0 if values.argmax() > values.argmin() else -1.0)
    typical = float(np.sqrt(np.median(np.diff(values) ** 2)))
    if gain == 0.0:
        return 0.0
    return gain / typical if typical else float(np.copysign(np.inf, gain))
