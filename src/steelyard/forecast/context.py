"""How long a text a model with rotary positions can read after tuning with another base.

A dimension pair n of a head turns once every 2 pi base^(2n/d) positions. Pairs that turned at least once within the
texts of the first training know all their angles; the number of dimensions that did is the critical one, and the
first pair beyond it bounds what a larger base can do (Liu et al. 2023, arXiv:2310.05209, as in the notes of
OpenLMLab/scaling-rope).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from steelyard.errors import UserError

_TURN = 2.0 * math.pi


@dataclass(frozen=True)
class Reach:
    """What a base and a length of tuning allow.

    Attributes:
        critical_dimension: dimensions of a head that know all their angles.
        critical_base: the base above which the base decides, below which the tuned length does.
        length: positions up to which perplexity holds.
        bounded_by: which of the two it is.
        improving_bases: bases below which texts beyond `length` degrade slowly, the weakest effect first: all,
            half or a quarter of the angles' quarter turns are seen in tuning.
    """

    critical_dimension: int
    critical_base: float
    length: float
    bounded_by: str
    improving_bases: tuple[float, float, float]


def reach(head: int, trained: int, tuned: int, base: float, trained_base: float = 10_000.0) -> Reach:
    """Return how far a model extrapolates after tuning.

    Args:
        head: dimensions of a head that rotate.
        trained: positions of the texts of the first training.
        tuned: positions of the texts of tuning, no fewer.
        base: of the rotation in tuning.
        trained_base: of the rotation in the first training.

    Raises:
        UserError: if the numbers cannot be a model's.
    """
    if head < 2 or head % 2:
        raise UserError(f"a rotating head has an even number of dimensions, not {head}")
    if trained <= _TURN:
        raise UserError(
            f"texts of {trained} positions are too short for any dimension to turn once; take 7 or more"
        )
    if tuned < trained:
        raise UserError(f"tuning on {tuned} positions is shorter than the first training on {trained}; not covered")
    if base <= 1 or trained_base <= 1:
        raise UserError(f"a base of rotation is above 1, not {min(base, trained_base):g}")
    critical = min(head, _turned(head, trained, trained_base))
    log_base = math.log(trained_base) * math.log(tuned / _TURN) / math.log(trained / _TURN)
    edge = math.exp(log_base)
    improving = (2.0 * tuned / math.pi, tuned / math.pi, tuned / _TURN)
    if base > edge:
        return Reach(critical, edge, _TURN * base ** (critical / head), "base", improving)
    return Reach(min(head, _turned(head, tuned, base)), edge, float(tuned), "tuned length", improving)


def _turned(head: int, length: int, base: float) -> int:
    return 2 * math.ceil(head / 2 * math.log(length / _TURN) / math.log(base))
