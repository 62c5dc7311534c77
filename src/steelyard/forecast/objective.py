"""What a fit makes small: Huber, absolute or squared residuals, of the losses or of their logarithms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.law import Array, Law

Kind = Literal["huber", "l1", "l2"]


@dataclass(frozen=True)
class Objective:
    """A sum over rows of a function of the residual.

    Attributes:
        kind: huber: half the square up to delta and linear beyond; l1: the magnitude; l2: half the square.
        delta: where Huber's function turns linear.
        logarithmic: of ln(predicted) - ln(measured), else of predicted - measured.
    """

    kind: Kind = "huber"
    delta: float = 1e-3
    logarithmic: bool = True

    def __post_init__(self) -> None:
        if self.delta <= 0:
            raise UserError(f"delta must be above zero, not {self.delta:g}")

    @property
    def label(self) -> str:
        """In words."""
        name = {"huber": f"Huber {self.delta:g}", "l1": "absolute", "l2": "half squared"}[self.kind]
        return f"sum of {name} residuals of {'log loss' if self.logarithmic else 'loss'}"

    def residuals(self, predicted: Array, measured: Array) -> Array:
        """Return the residuals; infinite where the prediction has no logarithm."""
        if not self.logarithmic:
            return np.asarray(predicted - measured)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(predicted > 0, np.log(predicted) - np.log(measured), np.inf)

    def cost(self, residuals: Array, delta: float | None = None) -> Array:
        """Return the cost of each residual; `delta` smooths absolute values where it is given."""
        size = np.abs(residuals)
        if self.kind == "l2":
            return 0.5 * size * size
        if self.kind == "l1" and delta is None:
            return size
        width = self.delta if delta is None else delta
        inside = np.minimum(size, width)
        cost = inside * (size - 0.5 * inside)
        return cost / width if self.kind == "l1" else cost

    def slope(self, residuals: Array, delta: float | None = None) -> Array:
        """Return the derivative of the cost."""
        if self.kind == "l2":
            return residuals
        if self.kind == "l1" and delta is None:
            return np.sign(residuals)
        width = self.delta if delta is None else delta
        clipped = np.clip(residuals, -width, width)
        return clipped / width if self.kind == "l1" else clipped


class Problem:
    """The rows of a fit and the objective over them, for whole batches of coordinates.

    Args:
        law: the form.
        columns: as the form reads them.
        measured: losses, [rows].
        objective: what is made small.
        weights: of the rows, [fits, rows] for resamples, or [rows]; 1 if absent.
        delta: smooths absolute values, see `Objective.cost`.
    """

    def __init__(
        self,
        law: Law,
        columns: Any,
        measured: Array,
        objective: Objective,
        weights: Array | None = None,
        delta: float | None = None,
    ) -> None:
        self.law, self.columns, self.measured, self.objective = law, columns, measured, objective
        self.weights = np.ones((1, len(measured))) if weights is None else np.atleast_2d(weights)
        self.delta = delta

    def of(self, members: Array) -> Array:
        """Return the weights of some fits."""
        return self.weights if len(self.weights) == 1 else self.weights[members]

    def value(self, coordinates: Array, members: Array) -> Array:
        """Return the objective of every fit, [fits]."""
        predicted, _ = self.law.evaluate(coordinates, self.columns)
        residuals = self.objective.residuals(predicted, self.measured)
        return np.asarray((self.objective.cost(residuals, self.delta) * self.of(members)).sum(axis=1))

    def gradient(self, coordinates: Array, members: Array) -> tuple[Array, Array]:
        """Return the objective [fits] and its gradient [fits, parameters]; infinite outside the law's domain."""
        predicted, derivatives = self.law.evaluate(coordinates, self.columns)
        residuals = self.objective.residuals(predicted, self.measured)
        weights = self.of(members)
        with np.errstate(invalid="ignore", over="ignore"):
            value = (self.objective.cost(residuals, self.delta) * weights).sum(axis=1)
            pull = self.objective.slope(residuals, self.delta) * weights
            if self.objective.logarithmic:
                pull = pull / predicted
            gradient = np.stack([_total(pull, d) for d in derivatives], axis=1)
        bad = ~(np.isfinite(value) & np.isfinite(gradient).all(axis=1))
        value[bad] = np.inf
        gradient[bad] = 0.0
        return value, gradient

    def curvature(self, coordinates: Array, members: Array) -> tuple[Array, Array, Array]:
        """Return objective, gradient and the curvature [fits, parameters, parameters] of its quadratic majorant."""
        predicted, derivatives = self.law.evaluate(coordinates, self.columns)
        residuals = self.objective.residuals(predicted, self.measured)
        weights = self.of(members)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            value = (self.objective.cost(residuals, self.delta) * weights).sum(axis=1)
            slope = self.objective.slope(residuals, self.delta)
            bend = np.where(residuals == 0, 1.0, slope / residuals) * weights
            factor = 1.0 / predicted if self.objective.logarithmic else np.ones_like(predicted)
            rows = np.stack(
                [np.broadcast_to(d, predicted.shape) * factor for d in derivatives], axis=1
            )  # [fits, parameters, rows]
            gradient = np.einsum("bpn,bn->bp", rows, slope * weights)
            matrix = (rows * bend[:, None, :]) @ rows.transpose(0, 2, 1)
        bad = ~(np.isfinite(value) & np.isfinite(gradient).all(axis=1) & np.isfinite(matrix).all(axis=(1, 2)))
        value[bad], gradient[bad], matrix[bad] = np.inf, 0.0, np.eye(matrix.shape[1])
        return value, gradient, matrix


def _total(pull: Array, derivative: Array) -> Array:
    if derivative.shape[-1] == 1:
        return np.asarray(pull.sum(axis=1) * derivative[..., 0])
    return np.asarray(np.einsum("bn,bn->b", pull, np.broadcast_to(derivative, pull.shape)))
