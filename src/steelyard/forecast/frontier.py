"""The compute-optimal frontier of any law of N and D: for a budget, the size and tokens of least loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.errors import UserError
from steelyard.forecast.fitting import Fit
from steelyard.forecast.law import Array

_WIDE, _POINTS, _ZOOMS = 16.0, 65, 5


@dataclass(frozen=True)
class Frontier:
    """Optima under C = 6 N D, each array of shape [budgets] or [fits, budgets]."""

    compute: Array
    parameters: Array
    tokens: Array
    loss: Array

    @property
    def exponent(self) -> Array:
        """Of N* in compute, between the first budget and the last."""
        rise = np.log(self.parameters[..., -1] / self.parameters[..., 0])
        return np.asarray(rise / np.log(self.compute[-1] / self.compute[0]))


def frontier(found: Fit, compute: Array, coordinates: Array | None = None) -> Frontier:
    """Return the optimum for every budget, by zooming into a grid of sizes.

    Args:
        found: a fit of a law of N and D.
        compute: budgets, [budgets].
        coordinates: of several fits, [fits, parameters]; those of the fit if absent.

    Raises:
        UserError: if the law has other columns, or no optimum between one parameter and one token.
    """
    if set(found.law.columns) != {"N", "D"}:
        raise UserError(f"law {found.law.name} is not one of N and D alone; a frontier needs one that is")
    compute = np.asarray(compute, dtype=float)
    places = found.coordinates[None] if coordinates is None else coordinates
    middle = np.repeat(0.5 * np.log(compute / 6.0)[None], len(places), axis=0)
    wide = _WIDE
    for zoom in range(_ZOOMS):
        grid = middle[:, :, None] + np.linspace(-wide, wide, _POINTS)
        loss = _losses(found, places, np.exp(grid), compute[None, :, None])
        best = np.nanargmin(np.where(np.isfinite(loss), loss, np.inf), axis=2)
        if zoom == 0 and coordinates is None and ((best == 0) | (best == _POINTS - 1)).any():
            raise UserError(
                f"law {found.law.name} as fitted has no interior optimum: its loss falls towards an edge"
            )
        middle = np.take_along_axis(grid, best[:, :, None], axis=2)[:, :, 0]
        wide *= 4.0 / _POINTS
    size = np.exp(middle)
    loss = _losses(found, places, size[:, :, None], compute[None, :, None])[:, :, 0]
    tokens = compute / (6.0 * size)
    if coordinates is None:
        return Frontier(compute, size[0], tokens[0], loss[0])
    return Frontier(compute, size, tokens, loss)


def _losses(found: Fit, places: Array, size: Array, compute: Array) -> Array:
    """Losses of each fit at sizes of its own, [fits, budgets, sizes]."""
    tokens = compute / (6.0 * size)
    out = np.empty(size.shape)
    for member, place in enumerate(places):
        columns = {"N": size[member].ravel(), "D": np.broadcast_to(tokens, size.shape)[member].ravel()}
        out[member] = found.predict(columns, place).reshape(size.shape[1:])
    return out
