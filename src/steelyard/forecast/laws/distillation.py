"""Distillation: what a student's loss is, from its teacher's and from its own size and tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, exponent, inner, law
from steelyard.forecast.laws._numbers import logistic, softplus


@law(
    name="distillation",
    formula="L_T + (A/N^a + B/D^b)^g / L_T^c0 (1 + (L_T/(d1 L_0))^(1/f1))^(-c1 f1)",
    paper="Busbridge et al. 2025, arXiv:2502.08606, eq. 8; L_T the teacher's loss, L_0 that of the same student "
    "trained without a teacher, N without embeddings",
    columns={"N": "log", "D": "log", "teacher": "raw", "alone": "raw"},
    parameters=(
        inner("A", ("a", "N"), low=-2.0, high=2.0),
        exponent("a"),
        inner("B", ("b", "D"), low=-2.0, high=2.0),
        exponent("b"),
        exponent("g", 0.3, 1.2),
        exponent("c0", 0.0, 4.0),
        exponent("c1", 0.2, 4.0),
        inner("d1", low=-0.5, high=0.5),
        inner("f1", low=-3.0, high=-0.5),
    ),
)
def distillation(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss of a student; a teacher far better than the student could be alone helps less and less."""
    size, data = np.exp(p.A - p.a * x.N), np.exp(p.B - p.b * x.D)
    both, width = size + data, np.exp(p.f1)
    far = (np.log(x.teacher) - np.log(x.alone) - p.d1) / width
    bend, share = softplus(far), logistic(far)
    term = np.exp(p.g * np.log(both) - p.c0 * np.log(x.teacher) - p.c1 * width * bend)
    by_size, by_data = term * p.g * size / both, term * p.g * data / both
    return x.teacher + term, (
        by_size,
        -by_size * x.N,
        by_data,
        -by_data * x.D,
        term * np.log(both),
        -term * np.log(x.teacher),
        -term * width * bend,
        term * p.c1 * share,
        -term * p.c1 * width * (bend - share * far),
    )
