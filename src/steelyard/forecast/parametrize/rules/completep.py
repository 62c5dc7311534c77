"""CompleteP: muP with blocks over the depth, so that every layer keeps learning features."""

from __future__ import annotations

from dataclasses import replace

from steelyard.forecast.parametrize.rule import ONE, Powers
from steelyard.forecast.parametrize.rules.mup import RULE as MUP

RULE = replace(
    MUP,
    name="completep",
    summary="muP, and what a block adds over the depth; rates as in muP",
    paper="Dey et al. 2025, arXiv:2505.01618; checked in EleutherAI/nanoGPT-mup, branch completep, alpha 1",
    # Gradients within blocks carry the factor of the branch, those of embeddings and head do not; the reference
    # code divides epsilon by the depth everywhere.
    block=Powers(epsilon=-ONE),
    branch=-ONE,
    covers_depth=True,
)
