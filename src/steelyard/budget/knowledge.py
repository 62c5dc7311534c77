"""What is known about each tensor: how to round it, and what an error in it will cost.

With a calibration the damage of an error E in a linear map is its second-order share of the divergence,

    1/2 sum_i G_i (E H E^T)_ii        H: mean of x x^T over its inputs, G: mean squared gradient of its outputs,

in nats per token for language models. An embedding table has the same form with the token frequencies as the row
weights and the gradient at its output as the diagonal of H; a tied table has both terms. Where nothing is known
the damage is half the squared relative error of the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from steelyard.edits.quantize.error import error
from steelyard.edits.quantize.statistics import Statistics

if TYPE_CHECKING:
    from steelyard.measure.calibration import Calibration


@dataclass(frozen=True)
class Term:
    """One use of a tensor: the second moment of what it is multiplied with, and the curvature of its outputs."""

    second_moment: np.ndarray | None
    row_weight: np.ndarray | None


@dataclass(frozen=True)
class Knowledge:
    """What is known about one tensor."""

    statistics: Statistics
    terms: tuple[Term, ...]

    def damage(self, weight: np.ndarray, decoded: np.ndarray) -> float:
        """Return the predicted damage of reading `decoded` for `weight`, both [out, in] or of any equal shape."""
        if self.terms:
            return sum(error(weight, decoded, term.second_moment, term.row_weight) for term in self.terms)
        power = float(np.einsum("i,i->", *(2 * [weight.ravel().astype(np.float64)])))
        miss = (decoded.astype(np.float64) - weight.astype(np.float64)).ravel()
        return 0.5 * float(miss @ miss) / power if power else 0.0


NOTHING = Knowledge(Statistics(), ())


class KnowledgeBase:
    """Knowledge by tensor name, from a calibration or from nothing."""

    def __init__(self, calibration: Calibration | None) -> None:
        self._calibration = calibration
        # Tensors that read the same input are asked for one after the other and share their factors.
        self._statistics = lru_cache(maxsize=4)(self._load_statistics)

    def of(self, name: str) -> Knowledge:
        """Return what is known about a tensor of the result.

        The name of a tied copy (a head written apart from its embedding) means that use of the shared table alone.
        """
        if self._calibration is None:
            return NOTHING
        terms = tuple(Term(use.second_moment, use.row_weight) for use in self._calibration.uses(name))
        if not terms:
            return NOTHING
        if len(terms) == 1:
            return Knowledge(self._statistics(self._calibration.input_key(name)), terms)
        return Knowledge(Statistics(_combined(terms)), terms)

    def _load_statistics(self, key: str) -> Statistics:
        assert self._calibration is not None
        return Statistics(self._calibration.moment_of_key(key))


def _combined(terms: tuple[Term, ...]) -> np.ndarray:
    """Return the second moment that stands for several uses at once: each weighed by its mean curvature."""
    columns = next(t.second_moment.shape[-1] for t in terms if t.second_moment is not None)
    total = np.zeros((columns, columns))
    for term in terms:
        share = 1.0 if term.row_weight is None else float(np.mean(term.row_weight))
        moment = np.ones(columns) if term.second_moment is None else term.second_moment
        total += share * (np.diag(moment) if moment.ndim == 1 else moment)
    return total
