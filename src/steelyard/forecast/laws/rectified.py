"""Fine-tuning: a power of data that begins only after what pre-training already knew."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, exponent, inner, law, scale


@law(
    name="rectified",
    formula="B/(D_l + D^beta) + E",
    paper="Lin et al. 2024, arXiv:2402.02314",
    columns={"D": "log"},
    parameters=(
        scale("B", ("beta", "D"), low=-2.0, high=2.0),
        inner("D_l", ("beta", "D"), low=-5.0, high=2.0),
        exponent("beta", 0.05, 1.5),
        scale("E"),
    ),
    data="finetune_rectified",
)
def rectified(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss after fine-tuning on D samples; D_l is what pre-training is worth."""
    known, seen, floor = np.exp(p.D_l), np.exp(p.beta * x.D), np.exp(p.E)
    term = np.exp(p.B) / (known + seen)
    return term + floor, (term, -term * known / (known + seen), -term * seen * x.D / (known + seen), floor)
