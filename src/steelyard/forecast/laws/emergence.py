"""Emergence: powers that break, and tasks that are passed once in a thousand trials long before once in two."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, exponent, inner, law, scale
from steelyard.forecast.laws._numbers import logistic, softplus


@law(
    name="broken",
    formula="a + b/C^c0 (1 + (C/d)^(1/f))^(-c1 f)",
    paper="Caballero et al. 2022, arXiv:2210.14891, with one break; C stands for whatever grows, see --map",
    columns={"C": "log"},
    parameters=(
        scale("b", ("c0", "C")),
        exponent("c0", 0.0, 0.4),
        exponent("c1", 0.05, 0.8),
        inner("d", (1.0, "C"), low=-3.0, high=3.0),
        inner("f", low=-2.0, high=0.5),
        scale("a", low=-5.0, high=0.0),
    ),
)
def broken(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """A power that turns into another one around C = d, within a factor of about e^f on either side."""
    width = np.exp(p.f)
    far = (x.C - p.d) / width
    bend, share = softplus(far), logistic(far)
    power, floor = np.exp(p.b - p.c0 * x.C - p.c1 * width * bend), np.exp(p.a)
    return power + floor, (
        power,
        -power * x.C,
        -power * width * bend,
        power * p.c1 * share,
        -power * p.c1 * width * (bend - share * far),
        floor,
    )


@law(
    name="pass-until",
    formula="exp(-c/N^alpha)",
    paper="Hu et al. 2023, arXiv:2310.03262: ln(-ln score) is linear in ln N",
    columns={"N": "log"},
    parameters=(inner("c", ("alpha", "N"), low=-2.0, high=2.0), exponent("alpha")),
    target="score",
)
def pass_until(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Share of trials passed; compared by its logarithm, so that small shares count: see `forecast.emergence`."""
    hard = np.exp(p.c - p.alpha * x.N)
    score = np.exp(-hard)
    return score, (-score * hard, score * hard * x.N)
