"""Chinchilla: a floor and two powers."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, law, scale

_RANGES = {"N": (5.7e7, 1.6e10), "C": (1e18, 1.3e22)}


@law(
    name="chinchilla",
    formula="E + A/N^alpha + B/D^beta",
    paper="Hoffmann et al. 2022, arXiv:2203.15556",
    columns={"N": "log", "D": "log"},
    parameters=(
        scale("A", ("alpha", "N")),
        exponent("alpha"),
        scale("B", ("beta", "D")),
        exponent("beta"),
        scale("E", low=-1.0, high=1.5),
    ),
    published=(
        Published(
            "Hoffmann et al., unrounded",
            {
                "A": float(np.exp(6.0073404)),
                "B": float(np.exp(6.0179186)),
                "E": float(np.exp(0.5267228)),
                "alpha": 0.33917084,
                "beta": 0.2849083,
            },
            "arXiv:2203.15556 as kept in the notebook of epoch-research/analyzing-chinchilla",
            ranges=_RANGES,
        ),
        Published(
            "Hoffmann et al., as printed",
            {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28},
            "arXiv:2203.15556, appendix D.3",
            ranges=_RANGES,
            note="rounding the exponents to two digits multiplies the misfit by 3.3",
        ),
        Published(
            "Besiroglu et al.",
            {"A": 482.00572, "B": 2085.43420, "E": 1.81686, "alpha": 0.34781, "beta": 0.36585},
            "arXiv:2404.10102, notebook of epoch-research/analyzing-chinchilla",
            ranges=_RANGES,
            note="the least absolute deviations, not the Huber optimum at the stated delta of 1e-3",
        ),
    ),
    data="chinchilla_epoch",
)
def chinchilla(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from parameters and tokens."""
    size, data, floor = np.exp(p.A - p.alpha * x.N), np.exp(p.B - p.beta * x.D), np.exp(p.E)
    return size + data + floor, (size, -size * x.N, data, -data * x.D, floor)
