"""Losses along one run, from the area under the learning rate and what annealing took off it."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, exponent, law, scale


@law(
    name="annealing",
    formula="L0 + A/S1^alpha - C S2",
    paper="Tissue et al. 2024, arXiv:2408.11029",
    columns={"S1": "log", "S2": "raw"},
    parameters=(
        scale("A", ("alpha", "S1")),
        exponent("alpha"),
        scale("C", low=-4.0, high=2.0),
        scale("L0", low=-1.0, high=1.5),
    ),
    data="lr_schedule_curves",
)
def annealing(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss at a step; `schedules.areas` works out S1 and S2 for a schedule."""
    early, late, floor = np.exp(p.A - p.alpha * x.S1), np.exp(p.C) * x.S2, np.exp(p.L0)
    return early - late + floor, (early, -early * x.S1, -late, floor)
