"""Critical batch: what more data in parallel saves in steps, and how it grows."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, inner, law, scale


@law(
    name="critical-batch",
    formula="S_min (1 + B_crit/batch)",
    paper="McCandlish et al. 2018, arXiv:1812.06162; per size in Zhang et al. 2024, arXiv:2410.21676",
    columns={"batch": "log"},
    parameters=(scale("S_min", low=3.0, high=14.0), inner("B_crit", (1.0, "batch"), low=-3.0, high=4.0)),
    data="critical_batch_size",
    target="steps",
)
def critical_batch(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Steps to a loss."""
    least, ratio = np.exp(p.S_min), np.exp(p.B_crit - x.batch)
    steps = least * (1.0 + ratio)
    return steps, (steps, least * ratio)


@law(
    name="critical-batch-size",
    formula="b N^g",
    paper="Zhang et al. 2024, arXiv:2410.21676, fig. 1",
    columns={"N": "log"},
    parameters=(scale("b", ("-g", "N"), low=4.0, high=18.0), exponent("g")),
    published=(
        Published(
            "C4, 85M to 1.2B",
            {"b": 93.1968, "g": 0.46828},
            "hlzhang109/critical-batch-size, refitted: 93.1968 N^0.46828",
            units={"N": 1e6},
            ranges={"N": (8.5e7, 1.2e9)},
            note="sequences of 512 tokens, 20 % overhead, 20 tokens per parameter",
        ),
    ),
    data="critical_batch_size",
    target="batch",
)
def critical_batch_size(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """The critical batch from the size of a model trained on 20 tokens per parameter."""
    batch = np.exp(p.b + p.g * x.N)
    return batch, (batch, batch * x.N)
