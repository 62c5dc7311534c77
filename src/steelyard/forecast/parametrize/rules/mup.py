"""Maximal update parametrization: hyperparameters hold across widths.

The form with a multiplier on the head, a constant deviation there, and hidden learning rates over the width, as
microsoft/mup (MuReadout, MuAdam with its coupled decay) and the table of EleutherAI/nanoGPT-mup have it.
"""

from __future__ import annotations

from steelyard.forecast.parametrize.rule import HALF, ONE, Powers, Rule

RULE = Rule(
    name="mup",
    summary="maximal update: hidden deviation / sqrt(m) and rate / m, head times 1/m, logits of attention 1/d",
    paper="Yang et al. 2022, arXiv:2203.03466, Table 8; checked in microsoft/mup and EleutherAI/nanoGPT-mup",
    # Gradients go as 1/m everywhere, and Adam's epsilon with them.
    input=Powers(epsilon=-ONE),
    hidden=Powers(init=-HALF, rate=-ONE, epsilon=-ONE, decay=ONE),
    output=Powers(epsilon=-ONE, forward=-ONE),
    vector=Powers(epsilon=-ONE),
    attention=-ONE,
)
