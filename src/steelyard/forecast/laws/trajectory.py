"""Trajectories: the loss at any step, with any batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, inner, law, origin

_ITERATIONS = 25
"""Newton's steps; the equation is concave in ln L and they come from its left, so that none overshoots."""


@law(
    name="trajectory",
    formula="(N_c/N)^alpha_N + (S_c/steps (1 + B_crit/batch))^alpha_S, B_crit = B_star/loss^(1/alpha_B)",
    paper="Kaplan et al. 2020, arXiv:2001.08361, eqs. 5.3, 5.4 and 5.6, up to 33B in Su et al. 2024, "
    "arXiv:2403.06563; batch in tokens, N without embeddings",
    columns={"N": "log", "steps": "log", "batch": "log"},
    parameters=(
        origin("N_c", "N", "alpha_N", low=0.0),
        exponent("alpha_N", 0.02, 0.4),
        origin("S_c", "steps", "alpha_S", high=1.0),
        exponent("alpha_S", 0.2, 1.2),
        inner("B_star", (1.0, "batch"), low=2.0, high=8.0),
        exponent("alpha_B", 0.1, 0.5),
    ),
    published=(
        Published(
            "WebText2",
            {"N_c": 6.5e13, "alpha_N": 0.077, "S_c": 2.1e3, "alpha_S": 0.76, "B_star": 2e8, "alpha_B": 0.21},
            "arXiv:2001.08361, table 3 and eq. 1.4",
            ranges={"N": (768.0, 1.5e9), "steps": (3e3, 2.5e5), "batch": (2.0**19, 2.0**19)},
            note="two digits, as printed; after the warm-up only",
        ),
    ),
)
def trajectory(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss of a run that still goes on; the critical batch depends on the loss, so that it stands on both sides."""
    size, time = np.exp(p.N_c - p.alpha_N * x.N), np.exp(p.S_c - p.alpha_S * x.steps)
    power = 1.0 / p.alpha_B
    log_loss = np.log(size + time)
    for _ in range(_ITERATIONS):
        ratio = np.exp(p.B_star - x.batch - power * log_loss)
        slowed = time * np.exp(p.alpha_S * np.log1p(ratio))
        right = size + slowed
        slope = -p.alpha_S * power * slowed / right * ratio / (1.0 + ratio)
        log_loss = log_loss - (log_loss - np.log(right)) / (1.0 - slope)
    loss, waste = np.exp(log_loss), p.alpha_S * slowed * ratio / (1.0 + ratio)
    # What a change of the right-hand side does to the loss on both sides.
    gain = 1.0 / (1.0 + power * waste / loss)
    return loss, (
        gain * size,
        -gain * size * x.N,
        gain * slowed,
        gain * slowed * (np.log1p(ratio) - x.steps),
        gain * waste,
        gain * waste * power**2 * log_loss,
    )
