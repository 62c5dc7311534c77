"""What rounding knows about the inputs of a matrix, and the factors derived from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from steelyard.errors import UserError

# Damping is raised tenfold this many times before a second moment is given up as not positive definite.
_ATTEMPTS = 4


@dataclass(frozen=True)
class Factor:
    """A damped second moment, factored for error compensation in one order of the columns.

    Attributes:
        hessian: float64 [in, in], the damped second moment in the stored order.
        order: int64 [in], the columns in the order they are rounded.
        lower: float64 [in, in] lower triangular L in that order, with L L^T = inverse of the ordered hessian.
        importance: float64 [in] in the stored order: 1 / L_jj^2, what an error costs at column j once all the
            later columns have made up for it as well as they can.
    """

    hessian: np.ndarray
    order: np.ndarray
    lower: np.ndarray
    importance: np.ndarray


@dataclass
class Statistics:
    """Statistics of the inputs of one or more matrices; factors are computed once and shared.

    Give the same object to every matrix that reads the same input (q, k and v) and to every candidate codec.

    Attributes:
        second_moment: mean over tokens of x x^T, [in, in]; or its diagonal alone, [in]; or None: nothing is known.
        row_weight: what an error of each output costs, [out], in any unit; None: nothing is known.
    """

    second_moment: np.ndarray | None = None
    row_weight: np.ndarray | None = None
    _factors: dict[tuple[float, bool], Factor] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def with_rows(self, row_weight: np.ndarray | None) -> Statistics:
        """Return these statistics with what errors of each output cost; factors stay shared."""
        return Statistics(self.second_moment, row_weight, self._factors, self._lock)

    def importance(self, columns: int) -> np.ndarray:
        """Return the mean square of every input, float64 [in]; ones if nothing is known."""
        moment = self._checked(columns)
        if moment is None:
            return np.ones(columns)
        diagonal = np.diagonal(moment) if moment.ndim == 2 else moment
        return np.maximum(diagonal.astype(np.float64), 0.0)

    def hessian(self, columns: int) -> np.ndarray | None:
        """Return the full second moment if it is known, float64 [in, in]."""
        moment = self._checked(columns)
        return None if moment is None or moment.ndim == 1 else moment.astype(np.float64)

    def factor(self, columns: int, damping: float, activation_order: bool) -> Factor | None:
        """Return the factored second moment, or None if only a diagonal is known.

        Args:
            columns: number of inputs of the matrix.
            damping: share of the mean of the diagonal that is added to the diagonal.
            activation_order: whether the columns are taken by falling mean square of their input.
        """
        if self.second_moment is None or self.second_moment.ndim == 1:
            return None
        with self._lock:
            key = (damping, activation_order)
            if key not in self._factors:
                moment = self.hessian(columns)
                assert moment is not None
                self._factors[key] = factorize(moment, damping, activation_order)
            return self._factors[key]

    def _checked(self, columns: int) -> np.ndarray | None:
        moment = self.second_moment
        if moment is None:
            return None
        if moment.shape not in ((columns,), (columns, columns)):
            raise UserError(
                f"the second moment of the inputs has shape {list(moment.shape)} for a matrix of {columns} inputs; "
                "calibrate the model that is being quantized"
            )
        if not np.isfinite(moment).all():
            raise UserError("the second moment of the inputs holds NaN or infinity; calibrate on other text")
        return moment


def factorize(moment: np.ndarray, damping: float, activation_order: bool) -> Factor:
    """Damp, order and factor a second moment.

    With J the reversal of the order, J H J = C C^T gives H = R R^T for the upper triangular R = J C J, so that
    L = (R^-1)^T is the Cholesky factor of the inverse without the inverse ever being formed.

    Args:
        moment: float64 [in, in], symmetric positive semidefinite.
        damping: share of the mean of the diagonal that is added to the diagonal.
        activation_order: whether the columns are taken by falling mean square of their input.

    Raises:
        UserError: if the matrix is far from positive semidefinite.
    """
    diagonal = np.diagonal(moment)
    mean = float(diagonal.mean())
    if mean <= 0.0:
        return factorize(np.eye(len(moment)), damping, activation_order)
    order = np.argsort(-diagonal, kind="stable") if activation_order else np.arange(len(moment))
    for attempt in range(_ATTEMPTS):
        hessian = 0.5 * (moment + moment.T)
        hessian[np.diag_indices_from(hessian)] += max(damping, 1e-10) * 10.0**attempt * mean
        try:
            reversed_factor = np.linalg.cholesky(hessian[np.ix_(order[::-1], order[::-1])])
        except np.linalg.LinAlgError:
            continue
        lower = _inverse_transposed(reversed_factor[::-1, ::-1])
        importance = np.empty(len(order))
        importance[order] = np.diagonal(lower) ** -2.0
        return Factor(hessian, order, lower, importance)
    raise UserError("the second moment of the inputs is not positive semidefinite; calibrate again")


def _inverse_transposed(upper: np.ndarray) -> np.ndarray:
    from scipy.linalg.lapack import dtrtri

    inverse, info = dtrtri(np.asfortranarray(upper), lower=0)
    if info != 0:
        raise UserError("the second moment of the inputs cannot be inverted; use a larger damping")
    return np.ascontiguousarray(inverse.T)
