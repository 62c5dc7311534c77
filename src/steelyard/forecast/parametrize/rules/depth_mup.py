"""Depth-muP: muP with blocks over the square root of the depth."""

from __future__ import annotations

from dataclasses import replace

from steelyard.forecast.parametrize.rule import HALF, Powers
from steelyard.forecast.parametrize.rules.mup import RULE as MUP

RULE = replace(
    MUP,
    name="depth-mup",
    summary="muP, and what a block adds over sqrt(depth), rates in blocks over sqrt(depth)",
    paper="Yang et al. 2023, arXiv:2310.02244; checked in EleutherAI/nanoGPT-mup, branch completep, alpha 1/2",
    block=Powers(rate=-HALF, epsilon=-HALF),
    branch=-HALF,
    covers_depth=True,
    notes=(
        "its authors find fundamental limits to every rule of this kind where blocks have several layers, as here",
    ),
)
