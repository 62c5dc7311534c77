"""u-muP: every weight begins at unit deviation and is scaled where it is used.

Its residual rule weighs skip and branch so that the stream keeps unit size: out = (tau f + x) / sqrt(1 + tau^2)
with tau^2 = 1 / (L + i) for the i-th of 2L branches. Before norms only the ratio counts, and undoing the
shrinking of the stream gives every branch the same factor: tau_i times the product of sqrt(1 + tau_k^2) over
earlier branches, sqrt(1 / (L + i)) sqrt((L + i) / L), which is 1 / sqrt(L).
"""

from __future__ import annotations

from steelyard.forecast.parametrize.rule import HALF, ONE, Powers, Rule

RULE = Rule(
    name="u-mup",
    summary="unit-scaled muP: deviation 1, forward 1/sqrt(width), no base; independent decay",
    paper="Blake et al. 2024, arXiv:2407.17465; checked in graphcore-research/unit-scaling",
    input=Powers(rate=-HALF, epsilon=-ONE, decay=HALF),
    # Epsilon: gradients of a plain model; the published operations rescale them and leave it alone.
    hidden=Powers(rate=-HALF, epsilon=-3 * HALF, decay=HALF, forward=-HALF),
    output=Powers(epsilon=-ONE, forward=-ONE),
    vector=Powers(epsilon=-ONE),
    block=Powers(rate=-HALF, epsilon=-HALF, decay=HALF),
    branch=-HALF,
    attention=-ONE,
    absolute=True,
    needs_base=False,
    covers_depth=True,
    independent_decay=True,
    embedding_change=-HALF,
    std=1.0,
    notes=(
        "embeddings learn as 1/sqrt(width) by the rule's own choice, and --check expects that of them",
        "the scales that unit scaling gives operations (attention outputs, gated activations, the loss, gradients) "
        "are no tensors' and are left at one",
    ),
)
