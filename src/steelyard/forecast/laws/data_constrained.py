"""Repeated data: tokens and parameters beyond what the unique tokens can use count for less and less."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, inner, law, scale

_SIZE, _DATA = 1e9, 1e10
_LN_SIZE, _LN_DATA = float(np.log(_SIZE)), float(np.log(_DATA))


def _worth(unique: Array, total: Array, halving: Array) -> tuple[Array, Array, Array]:
    """Effective amount, and its derivatives by the unique amount and by ln(halving)."""
    repeats = np.where((total / unique).real < 1.0, 0.0, total / unique - 1.0)
    left = np.exp(-repeats / halving)
    worth = unique * (1.0 + halving * (1.0 - left))
    by_unique = 1.0 + halving * (1.0 - left) - (repeats + 1.0) * left
    return worth, by_unique, unique * (halving * (1.0 - left) - repeats * left)


@law(
    name="data-constrained",
    formula="E + A/N'^alpha + B/D'^beta, X' = U_X (1 + R_X (1 - exp(-(X/U_X - 1)/R_X)))",
    paper="Muennighoff et al. 2023, arXiv:2305.16264",
    columns={"N": "raw", "D": "raw", "U": "raw"},
    parameters=(
        scale("A", ("alpha", "N")),
        exponent("alpha", 0.2, 0.6),
        scale("B", ("beta", "D")),
        exponent("beta", 0.2, 0.6),
        scale("E", low=-1.0, high=1.5),
        inner("R_D", low=0.0, high=5.0),
        inner("R_N", low=-1.0, high=4.0),
    ),
    published=(
        Published(
            "C4, 182 runs",
            {
                "A": float(np.exp(6.255414)),
                "B": float(np.exp(7.3049974)),
                "E": float(np.exp(0.6254804)),
                "alpha": 0.3526596,
                "beta": 0.3526596,
                "R_D": 15.387756,
                "R_N": 5.309743,
            },
            "notebook parametric_fit of huggingface/datablations",
            ranges={"N": (7e6, 8.7e9)},
            note="not the optimum of its own objective; R_D has no upper bound in these runs",
        ),
    ),
    data="data_constrained",
    references={"N": _SIZE, "D": _DATA},
)
def data_constrained(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Loss with U unique tokens, seen D/U times."""
    used = np.minimum(x.U, x.D)
    data, _, data_by_halving = _worth(used, x.D, np.exp(p.R_D))
    # The size that U unique tokens are optimal for, along Chinchilla's frontier.
    both = p.alpha + p.beta
    log_a, log_b = p.A + p.alpha * _LN_SIZE, p.B + p.beta * _LN_DATA
    gain = (np.log(p.alpha) + log_a - np.log(p.beta) - log_b) / both
    log_best = (gain * both + p.beta * np.log(used)) / p.alpha
    capped = (log_best - np.log(x.N)).real >= 0.0
    unique = np.where(capped, x.N + 0.0 * log_best, np.exp(np.where(capped, np.log(x.N), log_best)))
    size, size_by_unique, size_by_halving = _worth(unique, x.N + 0.0 * log_best, np.exp(p.R_N))
    by_log_best = np.where(capped, 0.0, size_by_unique * unique)
    by_gain = both / p.alpha
    moves = {
        "A": by_gain / both,
        "B": -by_gain / both,
        "alpha": by_gain * (1.0 / p.alpha + _LN_SIZE - gain) / both - p.beta * (gain + np.log(used)) / p.alpha**2,
        "beta": by_gain * (-1.0 / p.beta - _LN_DATA - gain) / both + (gain + np.log(used)) / p.alpha,
    }
    far, long = np.log(size) - _LN_SIZE, np.log(data) - _LN_DATA
    first, second, floor = np.exp(p.A - p.alpha * far), np.exp(p.B - p.beta * long), np.exp(p.E)
    pull = -p.alpha * first / size
    moved = pull * by_log_best
    return first + second + floor, (
        first + moved * moves["A"],
        -first * far + moved * moves["alpha"],
        second + moved * moves["B"],
        -second * long + moved * moves["beta"],
        floor,
        -p.beta * second / data * data_by_halving,
        pull * size_by_halving,
    )
