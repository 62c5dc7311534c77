"""Routed models: a bilinear law of size and experts, which saturate at both ends."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, inner, law

_TEN = float(np.log(10.0))
_RANGES = {"N": (1.5e7, 1.3e9), "E": (1.0, 512.0)}


def _published(router: str, *values: float) -> Published:
    names = ("a", "b", "c", "d", "E_start", "E_max")
    return Published(
        router,
        dict(zip(names, values, strict=True)),
        "arXiv:2202.01169, table 3",
        ranges=_RANGES,
        note="three decimals on log N near 9 double the error; 130B tokens, one expert in every other layer",
    )


@law(
    name="clark",
    formula="log L = a log N + b log Ê + c log N log Ê + d, 1/Ê = 1/(E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max",
    paper="Clark et al. 2022, arXiv:2202.01169; logarithms to base 10, N dense",
    columns={"N": "ln", "E": "raw"},
    parameters=(
        exponent("a", -0.2, -0.02),
        exponent("b", -0.3, -0.02),
        exponent("c", 0.0, 0.03),
        exponent("d", 0.5, 2.0),
        inner("E_start", low=0.1, high=2.0),
        inner("E_max", low=4.0, high=7.0),
    ),
    published=(
        _published("S-Base", -0.082, -0.108, 0.009, 1.104, 1.847, 314.478),
        _published("RL-R", -0.083, -0.126, 0.012, 1.111, 1.880, 469.982),
        _published("Hash", -0.087, -0.136, 0.012, 1.157, 4.175, 477.741),
    ),
    data="routed_moe_clark",
)
def clark(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from the dense size and the number of experts."""
    start, most = np.exp(p.E_start), np.exp(p.E_max)
    shift = 1.0 / (1.0 / start - 1.0 / most)
    wide = x.E - 1.0 + shift
    experts = 1.0 / (1.0 / wide + 1.0 / most)
    size, many = x.N / _TEN, np.log(experts) / _TEN
    loss = 10.0 ** (p.a * size + p.b * many + p.c * size * many + p.d)
    by_many = loss * (p.b + p.c * size) * experts
    share = (shift / wide) ** 2
    return loss, (
        loss * _TEN * size,
        loss * _TEN * many,
        loss * _TEN * size * many,
        loss * _TEN,
        by_many * share / start,
        by_many * (1.0 - share) / most,
    )
