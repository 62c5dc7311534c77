"""Farseer: the exponent of data depends on the size of the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Parameter, exponent, law


@law(
    name="farseer",
    formula="exp(s N^q + S) + exp(B N^b + Q) / D^exp(A N^a + E)",
    paper="Li et al. 2025, arXiv:2506.10972",
    columns={"N": "log", "D": "ln"},
    parameters=(
        Parameter("s", -2.0, -0.2, along=(("-q", "N"),)),
        exponent("q", 0.02, 0.4),
        exponent("S", -1.0, 1.0),
        Parameter("B", 2.0, 12.0, along=(("-b", "N"),)),
        exponent("b", -0.4, -0.05),
        exponent("Q", -4.0, 3.0),
        Parameter("A", -6.0, -1.0, along=(("-a", "N"),)),
        exponent("a", 0.01, 0.15),
        exponent("E", 0.0, 5.0),
    ),
    data="farseer",
)
def farseer(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from parameters and tokens, nine constants."""
    bend, reach, fall = np.exp(p.q * x.N), np.exp(p.b * x.N), np.exp(p.a * x.N)
    size = np.exp(p.s * bend + p.S)
    power = np.exp(p.A * fall + p.E)
    data = np.exp(p.B * reach + p.Q - power * x.D)
    by_power = -data * x.D * power
    return size + data, (
        size * bend,
        size * p.s * bend * x.N,
        size,
        data * reach,
        data * p.B * reach * x.N,
        data,
        by_power * fall,
        by_power * p.A * fall * x.N,
        by_power,
    )
