"""Synthetic data: training on text whose rare words were cut off stops paying where the cut is."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, exponent, law, scale


@law(
    name="cut-tails",
    formula="E + B/D^beta + K/rank^kappa",
    paper="Dohmatob et al. 2024, arXiv:2402.07043; where the word of rank i has a share i^-z and the data keep the "
    "first `rank` words, beta = 1 - 1/z and kappa = z - 1",
    columns={"D": "log", "rank": "log"},
    parameters=(
        scale("B", ("beta", "D")),
        exponent("beta"),
        scale("K", ("kappa", "rank")),
        exponent("kappa", 0.1, 1.5),
        scale("E", low=-3.0, high=1.5),
    ),
)
def cut_tails(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss on real text after training on D samples of a model's text."""
    data, lost, floor = np.exp(p.B - p.beta * x.D), np.exp(p.K - p.kappa * x.rank), np.exp(p.E)
    return data + lost + floor, (data, -data * x.D, lost, -lost * x.rank, floor)
