"""Weight sparsity: what the zeros of a model are worth."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, law, origin, scale


@law(
    name="weight-sparsity",
    formula="(a_S (1-S)^b_S + c_S)/N^b_N + (a_D/D)^b_D + c",
    paper="Frantar et al. 2023, arXiv:2309.08520; N counts the weights that are not zero",
    columns={"N": "log", "S": "raw", "D": "log"},
    parameters=(
        scale("a_S", ("b_N", "N")),
        exponent("b_S", 0.3, 2.0),
        scale("c_S", ("b_N", "N")),
        exponent("b_N", 0.1, 0.6),
        origin("a_D", "D", "b_D"),
        exponent("b_D", 0.1, 1.2),
        scale("c", low=-2.0, high=2.0),
    ),
    published=(
        Published(
            "T5 on C4",
            {
                "a_S": 0.56778512 * 1e6**0.24513173,
                "b_S": 0.72161276,
                "c_S": 1.52265016 * 1e6**0.24513173,
                "b_N": 0.24513173,
                "a_D": 0.63361517 ** (1 / 0.20270772) * 1e5 * 65536,
                "b_D": 0.20270772,
                "c": 0.65074219,
            },
            "notebook of google-research/jaxpruner; the paper prints 16.8 .722 45.0 .245 6.90e8 .203 .651",
            ranges={"N": (1.3e6, 8.5e7), "S": (0.0, 0.875), "D": (1.6e10, 6.6e10)},
            note="not the optimum of its own objective",
        ),
        Published(
            "ViT on JFT-4B",
            {
                "a_S": 1.30485411 * 1e6**0.39222675,
                "b_S": 0.82101251,
                "c_S": 2.07506343 * 1e6**0.39222675,
                "b_N": 0.39222675,
                "a_D": 0.27818217 ** (1 / 0.88979104) * 1e9,
                "b_D": 0.88979104,
                "c": 4.51669257,
            },
            "notebook of google-research/jaxpruner; the paper prints 294 .821 468 .392 2.37e8 .890 4.517",
            ranges={"N": (6.6e5, 4.2e7), "S": (0.0, 0.9375), "D": (2e8, 1.8e9)},
            loss_unit="nats/example",
        ),
    ),
    data="weight_sparsity",
)
def weight_sparsity(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss of a model with a share S of zeros."""
    dense = np.log1p(-x.S)
    power = -p.b_N * x.N
    zeros, plain = np.exp(p.a_S + p.b_S * dense + power), np.exp(p.c_S + power)
    data, floor = np.exp(p.a_D - p.b_D * x.D), np.exp(p.c)
    return zeros + plain + data + floor, (
        zeros,
        zeros * dense,
        plain,
        -(zeros + plain) * x.N,
        data,
        -data * x.D,
        floor,
    )
