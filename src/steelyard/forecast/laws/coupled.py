"""The coupled form, of which Kaplan's and Chinchilla's are special cases."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, inner, law, scale


@law(
    name="coupled",
    formula="E + (A/N^alpha + B/D^beta)^kappa",
    paper='"Skaling": kappa = 1 is Hoffmann et al. 2022 (arXiv:2203.15556), E = 0 and beta = 1 Kaplan et al. 2020',
    columns={"N": "log", "D": "log"},
    parameters=(
        inner("A", ("alpha", "N")),
        exponent("alpha"),
        inner("B", ("beta", "D")),
        exponent("beta"),
        exponent("kappa", 0.25, 1.2),
        scale("E", low=-2.0, high=1.5),
    ),
    published=(
        Published(
            "Busbridge et al., C4, without a teacher",
            {"A": 3355.0, "alpha": 0.408, "B": 18186.0, "beta": 0.431, "kappa": 0.452, "E": 1.220},
            "arXiv:2502.08606, as quoted in a collection of laws and their data",
            ranges={"N": (1.43e8, 1.26e10)},
            note="N without embeddings",
        ),
    ),
    data="farseer",
)
def coupled(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from parameters and tokens; E and kappa trade off, so report both or neither."""
    size, data, floor = np.exp(p.A - p.alpha * x.N), np.exp(p.B - p.beta * x.D), np.exp(p.E)
    both = size + data
    above = both**p.kappa
    by_size = p.kappa * above * size / both
    by_data = p.kappa * above * data / both
    return above + floor, (by_size, -by_size * x.N, by_data, -by_data * x.D, above * np.log(both), floor)
