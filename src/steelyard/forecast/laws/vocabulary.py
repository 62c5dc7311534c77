"""Vocabulary: a third power, of the parameters of embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, law, scale, signed


@law(
    name="vocabulary",
    formula="-E + A1/N^b + A2/Nv^a2 + B/D^b",
    paper="Tao et al. 2024, arXiv:2407.13623, approach 3; N without and Nv with the vocabulary alone",
    columns={"N": "log", "Nv": "log", "D": "log"},
    parameters=(
        signed("E", low=2.0, high=8.0),
        scale("A1", ("b", "N")),
        scale("A2", ("a2", "Nv"), low=-6.0, high=1.0),
        exponent("a2", 0.2, 1.5),
        scale("B", ("b", "D")),
        exponent("b"),
    ),
    published=(
        Published(
            "SlimPajama, 1054 runs",
            {
                "E": 5.5327847,
                "A1": 1.8313852,
                "A2": 0.1958424,
                "B": 2.1241123,
                "b": 0.4466063,
                "a2": 0.6707375,
            },
            "sail-sg/scaling-with-vocab",
            units={"N": 1e6, "Nv": 1e6, "D": 1e9},
            ranges={"N": (3.3e7, 1.1e9)},
            loss_unit="nats/token less unigrams",
            note="D = characters * f(V/1000): their code calls f with the vocabulary in thousands",
        ),
    ),
    data="vocabulary",
    target="unigram_loss",
    logarithmic=False,
)
def vocabulary(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss less that of unigrams, comparable between vocabularies."""
    size, words, data = np.exp(p.A1 - p.b * x.N), np.exp(p.A2 - p.a2 * x.Nv), np.exp(p.B - p.b * x.D)
    return size + words + data - p.E, (
        -np.ones_like(size),
        size,
        words,
        -words * x.Nv,
        data,
        -size * x.N - data * x.D,
    )
