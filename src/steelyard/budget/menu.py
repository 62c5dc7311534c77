"""What `fit` tries, as data: codecs by effort, and the ways of rounding to each. Reasons are measured ones."""

from __future__ import annotations

from typing import Literal

from steelyard.budget.encoding import methods_for, rounding_of
from steelyard.codecs import Codec, IntegerCodec

Effort = Literal["quick", "good", "best"]

# (bits, group size or None for one scale per row, symmetric). At few bits small groups and a zero point earn
# their bytes; at many bits they do not, and a long menu costs time without widening the hull.
INTEGERS: dict[Effort, tuple[tuple[int, int | None, bool], ...]] = {
    "quick": (
        (2, 32, False),
        (3, 64, False),
        (4, 64, True),
        (5, 64, True),
        (6, 128, True),
        (8, None, True),
    ),
    "good": (
        (2, 16, False),
        (2, 32, False),
        (2, 64, False),
        (3, 32, False),
        (3, 64, False),
        (3, 128, True),
        (4, 32, False),
        (4, 64, False),
        (4, 64, True),
        (4, 128, True),
        (5, 64, False),
        (5, 128, True),
        (6, 64, True),
        (6, 128, True),
        (7, 128, True),
        (8, 128, True),
        (8, None, True),
    ),
}
INTEGERS["best"] = (
    *INTEGERS["good"],
    (2, 128, False),
    (3, 16, False),
    (3, 64, True),
    (4, 128, False),
    (4, None, True),
    (5, 32, False),
    (6, None, True),
    (7, 64, True),
)

# Where entropy-coded grids can be had, integers of fewer bits are not tried: on the reference model they do 2 to 9
# times the damage of a grid of equal bytes, and so do the other codecs at their defaults: NF3 and NF4 2 to 9, MXFP4
# and NVFP4 3 to 9, power codes 2 to 6, codebooks of one byte for eight weights 3 to 6, ternary weights 1.3 to 3,
# integers with low-rank corrections 10 to 15, integers that are entropy-coded themselves 2 to 4; seven bits are
# nowhere on the hull. Eight lie beyond a grid's 255 codes. `entropy=False` brings the integers back.
PLAIN_FROM = 8

# Steps of entropy-coded grids, in units of the matrix's root mean square: from under one bit to six. The coarsest
# is there for the smallest result, see `least`.
GRID_STEPS: dict[Effort, tuple[float, ...]] = {
    "quick": (5.0, 4.0, 3.0, 2.3, 1.7, 1.25, 0.9, 0.6, 0.35, 0.15, 0.06),
    "good": (5.0, 4.0, 3.0, 2.4, 2.0, 1.7, 1.4, 1.2, 1.0, 0.84, 0.7, 0.6, 0.5, 0.35, 0.25, 0.12, 0.06),
}
GRID_STEPS["best"] = tuple(
    sorted((*GRID_STEPS["good"], 6.0, 2.7, 2.2, 1.85, 1.55, 1.3, 1.1, 0.92, 0.42, 0.3, 0.18), reverse=True)
)

# Ranks of the corrections tried on top of integers, as a share of the smaller side.
CORRECTION_SHARES = (1 / 64, 1 / 32, 1 / 16)
CORRECTED_BITS = (2, 3, 4)

_ROUNDING = {"quick": "rtn", "good": "gptq", "best": "gptq"}

# Tried beside GPTQ at best effort, for integers of at most so many bits.
_ALSO = {"decoupleq": 2, "sign-gradient": 3}


def roundings(codec: Codec, effort: Effort) -> tuple[str, ...]:
    """Return the ways of rounding to a codec that are tried; the one that does the least damage is taken."""
    first = rounding_of(codec, _ROUNDING[effort])
    if effort != "best" or not isinstance(codec, IntegerCodec):
        return (first,)
    return (first, *(name for name, bits in _ALSO.items() if codec.bits <= bits and name in methods_for(codec)))


__all__ = ["CORRECTED_BITS", "CORRECTION_SHARES", "GRID_STEPS", "INTEGERS", "PLAIN_FROM", "Effort", "roundings"]
