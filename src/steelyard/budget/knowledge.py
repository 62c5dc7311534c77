"""What is known about each tensor: how to round it, and what an error in it will cost.

With a calibration the damage of an error E in a linear map is its second-order share of the divergence,

    1/2 sum_i G_i (E H E^T)_ii        H: mean of x x^T over its inputs, G: mean squared gradient of its outputs,

in nats per token for language models. An embedding table has the same form with the token frequencies as the row
weights and the gradient at its output as the diagonal of H; a tied table has both terms. Where nothing is known
the damage is half the squared relative error of the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
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
    """What is known about one tensor.

    Attributes:
        statistics: of its inputs, for rounding.
        terms: what an error in it costs, one for each use.
        mean: its mean input [in]; None for what is not a linear map.
    """

    statistics: Statistics
    terms: tuple[Term, ...]
    mean: np.ndarray | None = None

    def damage(self, weight: np.ndarray, decoded: np.ndarray) -> float:
        """Return the predicted damage of reading `decoded` for `weight`, both [out, in] or of any equal shape."""
        if self.terms:
            return sum(error(weight, decoded, term.second_moment, term.row_weight) for term in self.terms)
        power = float(np.einsum("i,i->", *(2 * [weight.ravel().astype(np.float64)])))
        miss = (decoded.astype(np.float64) - weight.astype(np.float64)).ravel()
        return 0.5 * float(miss @ miss) / power if power else 0.0


NOTHING = Knowledge(Statistics(), ())


class KnowledgeBase:
    """Knowledge by tensor name, from a calibration or from nothing.

    Args:
        calibration: None where nothing was calibrated.
        ties: aliases of tied tensors and the names they are stored under.
    """

    def __init__(self, calibration: Calibration | None, ties: Mapping[str, str] = MappingProxyType({})) -> None:
        self._calibration = calibration
        self._ties = ties
        # Tensors that read the same input are asked for one after the other and share their factors.
        self._statistics = lru_cache(maxsize=2)(self._load_statistics)

    @property
    def calibrated(self) -> bool:
        """Whether anything is known beside the weights."""
        return self._calibration is not None

    def of(self, name: str, apart: bool = False) -> Knowledge:
        """Return what is known about a tensor of the result.

        Args:
            name: of the tensor.
            apart: whether a tied table is written twice: then its own name means its use as a table, and its
                alias its use as a head.
        """
        source = self._ties.get(name, name)
        if self._calibration is None or source not in self._calibration:
            return NOTHING
        terms = tuple(Term(term.second_moment, term.row_weight) for term in self._calibration.terms(source))
        if len(terms) > 1 and apart:
            term = terms[0] if name == source else terms[-1]
            return Knowledge(Statistics(term.second_moment, term.row_weight), (term,))
        if len(terms) > 1:
            return Knowledge(Statistics(self._calibration.second_moment(source), _row_costs(terms)), terms)
        linear = source in self._calibration.about["owner"]
        mean = self._calibration.input_mean(source) if linear else None
        statistics = self._statistics(self._calibration.moment_key(source))
        return Knowledge(statistics.with_rows(_row_costs(terms)), terms, mean)

    def _load_statistics(self, key: str) -> Statistics:
        assert self._calibration is not None
        return Statistics(self._calibration.moment_of(key))


def _row_costs(terms: Sequence[Term]) -> np.ndarray | None:
    """Return what an error of each row costs over all uses, if every second moment were as large as its trace."""
    if any(term.row_weight is None for term in terms):
        return None
    total = np.zeros(1)
    for term in terms:
        assert term.row_weight is not None
        moment = term.second_moment
        power = 1.0 if moment is None else float(np.trace(moment) if moment.ndim == 2 else moment.sum())
        total = total + power * term.row_weight.astype(np.float64)
    return total
