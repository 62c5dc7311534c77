"""The certificate of a preparation: both models run in float64 and compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steelyard.seeds import generator

TOLERANCE = 1e-9
"""Relative deviation in float64 up to which two models are one function: above all rounding, below any change."""


@dataclass(frozen=True)
class Certificate:
    """How far the prepared model's logits are from the original's, relative to their power, on random tokens.

    Attributes:
        exact: of the changed weights before they are rounded to the type they are stored in.
        stored: of the weights as they are stored.
        tokens: how many were run.
        beyond: what was done after `exact` and does not keep the function, in words; "" if nothing was.
    """

    exact: float
    stored: float
    tokens: int
    beyond: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def draw_tokens(vocabulary: int, seed: int = 0, sequences: int = 2, length: int = 24) -> np.ndarray:
    """Return random tokens, int64 [sequences, length]."""
    return generator(seed, "certificate").integers(0, vocabulary, (sequences, length))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Return |found - expected| / |expected|."""
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-300))
