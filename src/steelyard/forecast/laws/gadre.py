"""Over-training (Gadre) and the error on tasks that follows from a loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, law, scale, signed

_SIX = 0.5 * float(np.log(6.0))


@law(
    name="gadre",
    formula="E + a/N^alpha + b 6^(-alpha/2)/D^alpha",
    paper="Gadre et al. 2024, arXiv:2403.08540, as their code has it (6 in the second term only)",
    columns={"N": "log", "D": "log"},
    parameters=(
        scale("a", ("alpha", "N")),
        scale("b", ("alpha", "D")),
        exponent("alpha"),
        scale("E", low=-1.0, high=1.5),
    ),
    published=(
        Published(
            "RedPajama, loss on C4",
            {"a": 166.21, "b": 366.69, "alpha": 0.272851, "E": 1.836648},
            "least squares on the five runs of the notebook in mlfoundations/scaling",
            ranges={"C": (1e17, 2.5e20)},
            note="as printed by our fit, whose errors on the held-back runs are the published ones",
        ),
    ),
    data="overtraining_gadre",
)
def gadre(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss of runs with any number of tokens per parameter; one exponent for both."""
    size, data, floor = np.exp(p.a - p.alpha * x.N), np.exp(p.b - p.alpha * (x.D + _SIX)), np.exp(p.E)
    return size + data + floor, (size, data, -size * x.N - data * (x.D + _SIX), floor)


@law(
    name="downstream-error",
    formula="epsilon - k exp(-gamma loss)",
    paper="Gadre et al. 2024, arXiv:2403.08540",
    columns={"loss": "raw"},
    parameters=(signed("k", low=0.1, high=3.0), exponent("gamma", 0.1, 2.0), signed("epsilon", low=0.3, high=1.0)),
    published=(
        Published(
            "RedPajama, mean of 17 tasks",
            {"k": 2.2065, "gamma": 0.71459, "epsilon": 0.85699},
            "least squares on the six runs of the notebook in mlfoundations/scaling",
        ),
    ),
    data="overtraining_gadre",
    target="error",
    logarithmic=False,
)
def downstream_error(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Error on tasks from loss."""
    fall = np.exp(-p.gamma * x.loss)
    return p.epsilon - p.k * fall, (-fall, p.k * fall * x.loss, np.ones_like(fall))


@law(
    name="downstream-sigmoid",
    formula="low + height/(1 + exp(steepness (loss - middle)))",
    paper="Bhagia et al. 2024, arXiv:2412.04403: accuracy from task loss",
    columns={"loss": "raw"},
    parameters=(
        signed("low", low=0.0, high=0.5),
        signed("height", low=0.2, high=1.0),
        exponent("steepness", 0.5, 6.0),
        exponent("middle", 0.5, 4.0),
    ),
    target="score",
    logarithmic=False,
)
def downstream_sigmoid(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Accuracy that rises from chance to its ceiling as the loss falls."""
    share = 0.5 * (1.0 - np.tanh(0.5 * p.steepness * (x.loss - p.middle)))
    bend = p.height * share * (1.0 - share)
    return p.low + p.height * share, (
        np.ones_like(share),
        share,
        -bend * (x.loss - p.middle),
        bend * p.steepness,
    )
