"""Kaplan's laws: powers without a floor, one by one and joined."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, inner, law, origin

_PAPER = "Kaplan et al. 2020, arXiv:2001.08361"
_PF_DAY = 8.64e19


def _webtext(where: str, **constants: float) -> tuple[Published, ...]:
    ranges = {"N": (768.0, 1.5e9), "D": (2.2e7, 2.3e10), "steps": (3e3, 2.5e5)}
    return (
        Published(
            "WebText2",
            constants,
            f"arXiv:2001.08361, {where}",
            ranges=ranges,
            note="two or three digits, as printed; they go with one tokenizer",
        ),
    )


@law(
    name="kaplan-size",
    formula="(N_c/N)^alpha_N",
    paper=f"{_PAPER}, eq. 1.1; N without embeddings",
    columns={"N": "log"},
    parameters=(origin("N_c", "N", "alpha_N", high=3.0), exponent("alpha_N", 0.02, 0.3)),
    published=_webtext("eq. 1.1", N_c=8.8e13, alpha_N=0.076),
)
def kaplan_size(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from parameters, trained to convergence."""
    loss = np.exp(p.N_c - p.alpha_N * x.N)
    return loss, (loss, -loss * x.N)


@law(
    name="kaplan-data",
    formula="(D_c/D)^alpha_D",
    paper=f"{_PAPER}, eq. 1.2",
    columns={"D": "log"},
    parameters=(origin("D_c", "D", "alpha_D", high=3.0), exponent("alpha_D", 0.02, 0.3)),
    published=_webtext("eq. 1.2", D_c=5.4e13, alpha_D=0.095),
)
def kaplan_data(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from tokens, stopped early."""
    loss = np.exp(p.D_c - p.alpha_D * x.D)
    return loss, (loss, -loss * x.D)


@law(
    name="kaplan-compute",
    formula="(C_c/C)^alpha_C",
    paper=f"{_PAPER}, eq. 1.3",
    columns={"C": "log"},
    parameters=(origin("C_c", "C", "alpha_C", high=3.0), exponent("alpha_C", 0.02, 0.3)),
    published=_webtext("eq. 1.3, of the least compute", C_c=3.1e8 * _PF_DAY, alpha_C=0.050),
)
def kaplan_compute(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from compute, allotted optimally."""
    loss = np.exp(p.C_c - p.alpha_C * x.C)
    return loss, (loss, -loss * x.C)


@law(
    name="kaplan",
    formula="((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D",
    paper=f"{_PAPER}, eq. 1.5; N without embeddings",
    columns={"N": "log", "D": "log"},
    parameters=(
        inner("N_c", (1.0, "N"), low=4.0, high=24.0),
        exponent("alpha_N", 0.03, 0.3),
        inner("D_c", (1.0, "D"), low=4.0, high=18.0),
        exponent("alpha_D", 0.05, 0.4),
    ),
    published=_webtext("table 2", N_c=6.4e13, alpha_N=0.076, D_c=1.8e13, alpha_D=0.103),
)
def kaplan(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from parameters and tokens."""
    ratio, far = p.alpha_N / p.alpha_D, p.N_c - x.N
    size, data = np.exp(ratio * far), np.exp(p.D_c - x.D)
    both = size + data
    loss = both**p.alpha_D
    by_size, by_data = loss * size / both, loss * data / both
    return loss, (
        by_size * p.alpha_N,
        by_size * far,
        by_data * p.alpha_D,
        loss * np.log(both) - by_size * far * ratio,
    )


@law(
    name="kaplan-steps",
    formula="(N_c/N)^alpha_N + (S_c/steps)^alpha_S",
    paper=f"{_PAPER}, eq. 1.6; steps at a batch far above the critical one",
    columns={"N": "log", "steps": "log"},
    parameters=(
        origin("N_c", "N", "alpha_N"),
        exponent("alpha_N", 0.02, 0.4),
        origin("S_c", "steps", "alpha_S"),
        exponent("alpha_S", 0.2, 1.2),
    ),
    published=_webtext("table 3", N_c=6.5e13, alpha_N=0.077, S_c=2.1e3, alpha_S=0.76),
)
def kaplan_steps(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from parameters and steps."""
    size, time = np.exp(p.N_c - p.alpha_N * x.N), np.exp(p.S_c - p.alpha_S * x.steps)
    return size + time, (size, -size * x.N, time, -time * x.steps)
