"""Published rules for the peak learning rate and the batch, with where each was measured.

Rules whose constants or units could not be verified are not here: Microsoft's learning rate by horizon (its units),
the power scheduler's prefactor, MiniCPM's batch (it takes a loss, not a size).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.law import Array

Formula = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: how it is called.
        paper: its source.
        rate: peak learning rate of Adam from N (without embeddings) and D (tokens).
        batch: tokens of a step.
        formula: in words.
        ranges: where it was measured.
        note: what to know.
    """

    name: str
    paper: str
    rate: Formula
    batch: Formula
    formula: str
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    note: str = ""

    def __call__(self, n: Array | float, d: Array | float) -> tuple[Any, Any]:
        """Return the learning rate and the batch in tokens."""
        return self.rate(n, d), self.batch(n, d)


def _step_batch(n: Any, d: Any) -> Any:
    return 0.58 * d**0.571


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            "step",
            "Li et al. 2025, arXiv:2503.04715",
            lambda n, d: 1.79 * n**-0.713 * d**0.307,
            _step_batch,
            "lr = 1.79 N^-0.713 D^0.307, batch = 0.58 D^0.571",
            {"N": (6e7, 1.1e9), "D": (2e9, 1e11)},
            "final learning rate held at 1e-5",
        ),
        Rule(
            "deepseek",
            "DeepSeek-AI 2024, arXiv:2401.02954",
            lambda n, d: 0.3118 * (6 * n * d) ** -0.125,
            lambda n, d: 0.2920 * (6 * n * d) ** 0.3271,
            "lr = 0.3118 C^-0.125, batch = 0.2920 C^0.3271, C = 6ND",
            {"C": (1e17, 2e19)},
        ),
        Rule(
            "porian",
            "Porian et al. 2024, arXiv:2406.19146",
            lambda n, d: 3.7 * n**-0.36 + 0 * d,
            lambda n, d: 0.7576 * n**0.703 + 0 * d,
            "lr = 3.7 N^-0.36, batch = 0.7576 N^0.703",
            note="measured near D = 20N; beta2 = 0.99 where batches are small",
        ),
        Rule(
            "openai",
            "Kaplan et al. 2020, arXiv:2001.08361, eq. D.1, with Step law's batch",
            lambda n, d: 3.239e-3 - 1.395e-4 * np.log(n) + 0 * d,
            _step_batch,
            "lr = 0.003239 - 0.0001395 ln N, batch = 0.58 D^0.571",
            {"N": (7.7e2, 1.5e9)},
        ),
        Rule(
            "skaling",
            '"Skaling", as quoted: F training operations per token, taken as 6N',
            lambda n, d: 0.0709 * (6 * n) ** -0.4303 * d**0.2785,
            lambda n, d: 896.07 * (6 * n) ** 0.231 + 0 * d,
            "lr = 0.0709 F^-0.4303 D^0.2785, batch = 896.07 F^0.231",
            note="read second-hand",
        ),
    )
}


def get(name: str) -> Rule:
    """Return a rule by name.

    Raises:
        UserError: if there is none.
    """
    if name not in RULES:
        raise UserError(f"there is no rule {name!r}; available: {', '.join(RULES)}")
    return RULES[name]
