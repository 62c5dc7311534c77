"""The quantized sum of a frozen weight and a low-rank product, in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelyard.edits.tune._fake import applied, as_stored, codes_of, gradients
from steelyard.edits.tune._grid import Grid
from steelyard.edits.tune._learned import LearnedSteps
from steelyard.edits.tune.l4q import L4qOptions
from steelyard.edits.tune.trainable import Group, Start
from steelyard.seeds import generator


class _MergedAndRounded(torch.autograd.Function):
    """round(W0 + alpha B A) on a grid; nothing of the sum is kept for the backward pass."""

    @staticmethod
    def forward(
        context: Any,
        grid: Grid,
        origin: Tensor,
        b: Tensor,
        a: Tensor,
        alpha: float,
        scale: Tensor,
        zero: Tensor,
        step_gradient: Tensor,
    ) -> Tensor:
        """Return the rounded sum [rows, groups, size]."""
        context.save_for_backward(origin, b, a, scale, zero, step_gradient)
        context.grid, context.alpha = grid, alpha
        return (codes_of(merged(grid, origin, b, a, alpha), scale, zero, grid.low, grid.high) - zero) * scale

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of B, A, the steps and the zero points."""
        origin, b, a, scale, zero, step_gradient = context.saved_tensors
        grid, alpha = context.grid, context.alpha
        weight = merged(grid, origin, b, a, alpha)
        dweight, dscale, dzero = gradients(weight, scale, zero, grid.low, grid.high, step_gradient, gradient)
        wide = grid.unfold(dweight) * alpha
        return None, None, wide @ a.T, b.T @ wide, None, dscale, dzero, None


def merged(grid: Grid, origin: Tensor, b: Tensor, a: Tensor, alpha: float) -> Tensor:
    """Return W0 + alpha B A, [rows, groups, size]."""
    return origin + grid.fold(alpha * (b @ a))


class MergedLowRank(LearnedSteps):
    """A frozen weight, a low-rank update, and learned steps and zero points (L4Q)."""

    def __init__(self, start: Start, options: L4qOptions) -> None:
        super().__init__(start)
        out, columns = self.grid.shape
        rank = min(options.rank, out, columns)
        draw = generator(start.seed, f"l4q {start.name}").standard_normal((rank, columns))
        self.alpha = options.alpha
        self.a = torch.from_numpy((draw / rank**0.5).astype(np.float32)).requires_grad_()
        self.b = torch.zeros(out, rank).requires_grad_()
        self._rank = rank
        self._offset = self.zero.clone().requires_grad_(not self.grid.symmetric)

    def latent(self) -> Tensor:
        """Return the sum."""
        return merged(self.grid, self.origin, self.b, self.a, self.alpha)

    def weight(self) -> Tensor:
        """Return the quantized sum."""
        scale = as_stored(self.scale, self._stored_scale())
        zero = self.zero
        if not self.grid.symmetric:
            zero = as_stored(self._offset, self._stored_zero())
        grouped = applied(
            _MergedAndRounded, self.grid, self.origin, self.b, self.a, self.alpha, scale, zero, self.step_gradient
        )
        return self.grid.unfold(grouped)

    def placed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sum, the steps and the zero points as they are stored."""
        return self.latent().detach(), self._stored_scale(), self._stored_zero()

    def groups(self) -> Sequence[Group]:
        """Return the update, the steps and the zero points."""
        found = [
            Group({"b": self.b}, self.step_size / self.alpha),
            Group({"a": self.a}, self._rank**-0.5),
            self.steps(),
        ]
        if not self.grid.symmetric:
            found.append(Group({"zero": self._offset}, 1.0, "step"))
        return found

    def _stored_zero(self) -> Tensor:
        return self._offset.detach().round().clamp(self.grid.low, self.grid.high)
