"""Mixtures of experts: fine grains, dense and sparse in one law, sparsity, upcycling."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, inner, law, scale


@law(
    name="fine-grained",
    formula="c + (g/G^gamma + a)/N^alpha + b/D^beta",
    paper="Krajewski et al. 2024, arXiv:2402.07871; N of all experts, without embeddings",
    columns={"N": "log", "D": "log", "G": "log"},
    parameters=(
        scale("g", ("alpha", "N"), ("gamma", "G"), low=-5.0),
        exponent("gamma", 0.1, 1.5),
        scale("a", ("alpha", "N")),
        exponent("alpha"),
        scale("b", ("beta", "D")),
        exponent("beta"),
        scale("c", low=-2.0, high=1.5),
    ),
    published=(
        Published(
            "C4, 64-fold expansion",
            {"a": 18.1, "alpha": 0.115, "b": 30.8, "beta": 0.147, "g": 2.1, "gamma": 0.58, "c": 0.47},
            "arXiv:2402.07871, as noted from a copy",
            ranges={"N": (1.3e8, 3.7e9), "D": (1.6e10, 1.3e11)},
            note="three digits, as printed",
        ),
    ),
)
def fine_grained(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from size, tokens and the granularity of experts."""
    fine, size = np.exp(p.g - p.alpha * x.N - p.gamma * x.G), np.exp(p.a - p.alpha * x.N)
    data, floor = np.exp(p.b - p.beta * x.D), np.exp(p.c)
    return fine + size + data + floor, (
        fine,
        -fine * x.G,
        size,
        -(fine + size) * x.N,
        data,
        -data * x.D,
        floor,
    )


@law(
    name="expert-sparsity",
    formula="a/N^alpha + b/D^beta + c/(1-S)^lam + d/((1-S)^delta N^gamma) + e",
    paper="Abnar et al. 2025, arXiv:2501.12370; S the share of experts that rest",
    columns={"N": "log", "D": "log", "S": "raw"},
    parameters=(
        scale("a", ("alpha", "N")),
        exponent("alpha"),
        scale("b", ("beta", "D")),
        exponent("beta"),
        scale("c", low=-3.0, high=1.0),
        exponent("lam", -0.6, 0.2),
        scale("d", ("gamma", "N")),
        exponent("delta", 0.02, 0.5),
        exponent("gamma"),
        scale("e", low=-2.0, high=1.5),
    ),
    published=(
        Published(
            "RedPajama",
            {
                "a": 16612.50,
                "alpha": 0.5962,
                "b": 5455.67,
                "beta": 0.3954,
                "c": 0.4598,
                "lam": -0.1666,
                "d": 17.26,
                "delta": 0.1603,
                "gamma": 0.1595,
                "e": 0.94,
            },
            "arXiv:2501.12370, as noted from a copy",
            note="explains 68 % of the variance of their held-back runs",
        ),
    ),
)
def expert_sparsity(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss from total size, tokens and the sparsity of experts."""
    awake = np.log1p(-x.S)
    size, data = np.exp(p.a - p.alpha * x.N), np.exp(p.b - p.beta * x.D)
    rest, both = np.exp(p.c - p.lam * awake), np.exp(p.d - p.delta * awake - p.gamma * x.N)
    floor = np.exp(p.e)
    return size + data + rest + both + floor, (
        size,
        -size * x.N,
        data,
        -data * x.D,
        rest,
        -rest * awake,
        both,
        -both * awake,
        -both * x.N,
        floor,
    )


@law(
    name="joint-experts",
    formula="a E^delta N^(alpha + gamma ln E) + b E^omega D^(beta + zeta ln E) + c",
    paper="Ludziejewski et al. 2025, arXiv:2502.05172; N active, E as in Clark et al. before it saturates",
    columns={"N": "log", "D": "log", "E": "raw"},
    parameters=(
        scale("a", low=-3.0, high=2.0),
        exponent("alpha", -0.6, -0.05),
        exponent("delta", -0.5, 0.5),
        exponent("gamma", -0.05, 0.05),
        scale("b", low=-3.0, high=2.0),
        exponent("beta", -0.6, -0.05),
        exponent("omega", -0.5, 0.5),
        exponent("zeta", -0.05, 0.05),
        scale("c", low=-1.0, high=1.5),
    ),
)
def joint_experts(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss of dense (E = 1) and sparse models; a, b, delta and omega stand for the centre of the rows."""
    many = np.log(x.E)
    size = np.exp(p.a + p.delta * many + (p.alpha + p.gamma * many) * x.N)
    data = np.exp(p.b + p.omega * many + (p.beta + p.zeta * many) * x.D)
    floor = np.exp(p.c)
    return size + data + floor, (
        size,
        size * x.N,
        size * many,
        size * many * x.N,
        data,
        data * x.D,
        data * many,
        data * many * x.D,
        floor,
    )


@law(
    name="upcycling",
    formula="A / (D^alpha_1 D2^(alpha_2 - alpha_3 ln D)) + E",
    paper="Liew et al. 2025, arXiv:2502.03009: D tokens dense, D2 after upcycling, and their interaction",
    columns={"D": "log", "D2": "log"},
    parameters=(
        scale("A", low=-3.0, high=2.0),
        exponent("alpha_1"),
        exponent("alpha_2"),
        exponent("alpha_3", -0.05, 0.05),
        scale("E", low=-1.0, high=1.5),
    ),
)
def upcycling(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss of a mixture grown from a dense model; A and the exponents stand for the centre of the rows."""
    term, floor = np.exp(p.A - p.alpha_1 * x.D - p.alpha_2 * x.D2 + p.alpha_3 * x.D * x.D2), np.exp(p.E)
    return term + floor, (term, -term * x.D, -term * x.D2, term * x.D * x.D2, floor)


@law(
    name="parallel",
    formula="(A/(N (k ln P + 1)))^alpha + E",
    paper="Chen et al. 2025, arXiv:2505.10475",
    columns={"N": "log", "P": "raw"},
    parameters=(
        inner("A", (1.0, "N"), low=-30.0, high=2.0),
        inner("k", low=-3.0, high=1.0),
        exponent("alpha", 0.05, 0.5),
        scale("E", low=-2.0, high=1.5),
    ),
    published=(
        Published(
            "Stack, 18 runs",
            {"A": 0.01137e9, "k": 0.3960, "alpha": 0.1988, "E": 0.7085},
            "our fit of all rows of ScaleBench (MIT), as noted with the data",
        ),
        Published(
            "the Pile, 18 runs",
            {"A": 0.1953e9, "k": 0.3343, "alpha": 0.1964, "E": 1.2911},
            "our fit of all rows of ScaleBench (MIT), as noted with the data",
        ),
    ),
    data="scalebench_small",
)
def parallel(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss of a model that runs P streams of its input."""
    streams = np.log(x.P)
    worth = np.log1p(np.exp(p.k) * streams)
    far = p.A - x.N - worth
    term, floor = np.exp(p.alpha * far), np.exp(p.E)
    return term + floor, (
        term * p.alpha,
        -term * p.alpha * np.exp(p.k) * streams / (1.0 + np.exp(p.k) * streams),
        term * far,
        floor,
    )
