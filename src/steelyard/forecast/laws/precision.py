"""Precision: bits in training and after it."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, inner, law, scale


@law(
    name="precision",
    formula="A/(N (1 - exp(-bits/gamma)))^alpha + B/D^beta + E",
    paper="Kumar et al. 2024, arXiv:2411.04330 for weights trained in few bits",
    columns={"N": "log", "D": "log", "bits": "raw"},
    parameters=(
        scale("A", ("alpha", "N")),
        exponent("alpha"),
        inner("gamma", low=0.0, high=1.5),
        scale("B", ("beta", "D")),
        exponent("beta"),
        scale("E", low=-1.0, high=1.5),
    ),
)
def precision(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss of a model whose weights are trained in few bits."""
    gamma = np.exp(p.gamma)
    lost = np.exp(-x.bits / gamma)
    worth = np.log1p(-lost)
    size, data, floor = np.exp(p.A - p.alpha * (x.N + worth)), np.exp(p.B - p.beta * x.D), np.exp(p.E)
    return size + data + floor, (
        size,
        -size * (x.N + worth),
        size * p.alpha * lost / (1.0 - lost) * x.bits / gamma,
        data,
        -data * x.D,
        floor,
    )


@law(
    name="precision-post-training",
    formula="C D^g_D / N^g_N exp(-bits/gamma)",
    paper="Kumar et al. 2024, arXiv:2411.04330",
    columns={"N": "log", "D": "log", "bits": "raw"},
    parameters=(
        scale("C", ("g_N", "N"), ("-g_D", "D"), low=-6.0, high=4.0),
        exponent("g_D", 0.1, 1.0),
        exponent("g_N", 0.1, 1.0),
        inner("gamma", low=-1.5, high=1.5),
    ),
    published=(
        Published(
            "OLMo-style models on Dolma, GPTQ",
            {"C": 0.0598, "g_D": 0.5068, "g_N": 0.3439, "gamma": 0.5907},
            "arXiv:2411.04330, table 2",
            ranges={"N": (3e7, 1.7e9), "D": (1.5e9, 2.6e10), "bits": (3.0, 6.0)},
            note='"unlikely to be useful" outside their setting, in the authors\' words',
        ),
    ),
    target="degradation",
)
def precision_post_training(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss that rounding after training adds; it grows with the tokens of the training."""
    rate = x.bits * np.exp(-p.gamma)
    added = np.exp(p.C + p.g_D * x.D - p.g_N * x.N - rate)
    return added, (added, added * x.D, -added * x.N, added * rate)


@law(
    name="low-bit-degradation",
    formula="k D^beta / (N^alpha bits^gamma)",
    paper="Ouyang et al. 2024, arXiv:2411.17691",
    columns={"N": "log", "D": "log", "bits": "log"},
    parameters=(
        scale("k", ("alpha", "N"), ("-beta", "D"), ("gamma", "bits"), low=-6.0, high=4.0),
        exponent("alpha"),
        exponent("beta"),
        exponent("gamma", 2.0, 8.0),
    ),
    target="degradation",
)
def low_bit_degradation(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss that rounding after training adds, as powers of everything."""
    added = np.exp(p.k - p.alpha * x.N + p.beta * x.D - p.gamma * x.bits)
    return added, (added, -added * x.N, added * x.D, -added * x.bits)


@law(
    name="quantization-aware",
    formula="k D^g_D (log2 group)^g_G / N^g_N",
    paper="Chen et al. 2025, arXiv:2505.14302",
    columns={"N": "log", "D": "log", "group": "raw"},
    parameters=(
        scale("k", ("g_N", "N"), ("-g_D", "D"), low=-6.0, high=2.0),
        exponent("g_N"),
        exponent("g_D", 0.02, 0.3),
        exponent("g_G", 0.2, 1.5),
    ),
    target="degradation",
)
def quantization_aware(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss that training under rounding adds, by size, tokens and weights that share a scale."""
    group = np.log(np.log2(x.group))
    added = np.exp(p.k - p.g_N * x.N + p.g_D * x.D + p.g_G * group)
    return added, (added, -added * x.N, added * x.D, added * group)
