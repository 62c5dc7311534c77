"""Single powers with a floor: of data (Hestness), of size, of compute (Henighan)."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, law, origin, scale


def _power(amplitude: Array, power: Array, floor: Array, seen: Array) -> tuple[Array, tuple[Array, ...]]:
    term, rest = np.exp(amplitude - power * seen), np.exp(floor)
    return term + rest, (term, -term * seen, rest)


@law(
    name="hestness",
    formula="E + B/D^beta",
    paper="Hestness et al. 2017, arXiv:1712.00409: learning curves",
    columns={"D": "log"},
    parameters=(scale("B", ("beta", "D")), exponent("beta"), scale("E")),
)
def hestness(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from data alone."""
    return _power(p.B, p.beta, p.E, x.D)


@law(
    name="power-size",
    formula="E + A/N^alpha",
    paper="Hestness et al. 2017, arXiv:1712.00409; Henighan et al. 2020, arXiv:2010.14701",
    columns={"N": "log"},
    parameters=(scale("A", ("alpha", "N")), exponent("alpha"), scale("E")),
)
def power_size(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from parameters alone, data in abundance."""
    return _power(p.A, p.alpha, p.E, x.N)


@law(
    name="power-compute",
    formula="(C0/C)^gamma + E",
    paper="Henighan et al. 2020, arXiv:2010.14701; Dey et al. 2023, arXiv:2304.03208",
    columns={"C": "log"},
    parameters=(origin("C0", "C", "gamma"), exponent("gamma", 0.02, 0.3), scale("E")),
    published=(
        Published(
            "Cerebras-GPT, the Pile",
            {"C0": 5.984e22, "gamma": 0.0737, "E": 0.5066},
            "arXiv:2304.03208, as quoted in the notes that the data are from",
            ranges={"C": (2.6e18, 2.3e22)},
        ),
    ),
    data="cerebras_gpt",
)
def power_compute(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss along the compute-optimal frontier; the constant is read as entropy, the power as divergence."""
    return _power(p.C0, p.gamma, p.E, x.C)


@law(
    name="log-linear",
    formula="level + b ln(C / centre)",
    paper="Antonello et al. 2023, arXiv:2305.11863: scores of encoding models",
    columns={"C": "log"},
    parameters=(exponent("level", -1.0, 1.0), exponent("b", -0.2, 0.2)),
    target="score",
    logarithmic=False,
)
def log_linear(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """A score that grows with the logarithm of compute; `level` is its value at the centre of the rows."""
    ones = np.ones_like(x.C)
    return p.level + p.b * x.C, (ones, ones * x.C)
