"""Statistical steps and confidence-guided annealing, in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steelyard.edits.tune._fake import applied, codes_of
from steelyard.edits.tune._learned import OnGrid
from steelyard.edits.tune.ofq import OfqOptions
from steelyard.edits.tune.trainable import Group, Moment, Start


class _StraightThrough(torch.autograd.Function):
    """(clamp(round(w / s + z), low, high) - z) s with the gradient of w, also where it is clamped."""

    @staticmethod
    def forward(context: Any, weight: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        """Return the rounded weights."""
        return (codes_of(weight, scale, zero, low, high) - zero) * scale

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient as it came."""
        return gradient, None, None, None, None


class StatisticalSteps(OnGrid):
    """Float weights whose steps follow their mean magnitude (OFQ)."""

    def __init__(self, start: Start, options: OfqOptions) -> None:
        super().__init__(start)
        self.options = options
        self.float = self.origin.requires_grad_()
        # In float64, so that the first step is the stored one to the bit.
        self.factor = self.scale.double().abs() / self._mean().clamp(min=torch.finfo(torch.float32).tiny)
        if options.statistic == "paper":
            self.factor = torch.full_like(self.factor, 4.0 / (self.grid.high - self.grid.low + 1))
        self._kept: tuple[Tensor, Tensor] | None = None

    def weight(self) -> Tensor:
        """Return the matrix on the grid of the statistical steps."""
        _, scale, zero = self.placed()
        low, high = self.grid.low, self.grid.high
        grouped = applied(_StraightThrough, self.float, scale, zero, low, high)
        return self.grid.unfold(grouped)

    def placed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the float weights, the steps that follow from them, and the zero points."""
        return (
            self.float.detach(),
            self.grid.stored_scale((self.factor * self._mean()).float() * self.sign),
            self.zero,
        )

    def groups(self) -> Sequence[Group]:
        """Return the weights."""
        return [Group({"weight": self.float}, self.step_size)]

    def before_update(self, moment: Moment) -> None:
        """While annealing, note where every weight is and which ones may move."""
        if moment.share < 1 - self.options.anneal or self.float.grad is None:
            return
        self._kept = self.undecided(), self.float.detach().clone()
        self.float.grad.mul_(self._kept[0])

    def after_update(self, moment: Moment) -> None:
        """Put the frozen weights back: the optimizer's momentum moves them too."""
        if self._kept is not None:
            free, before = self._kept
            with torch.no_grad():
                self.float.copy_(torch.where(free, self.float, before))
            self._kept = None
        super().after_update(moment)

    def undecided(self) -> Tensor:
        """Return which weights lie within `boundary` steps of the middle between two codes."""
        weight, scale, zero = self.placed()
        place = torch.addcmul(zero, weight, scale.reciprocal())
        lower = place.floor()
        between = (lower >= self.grid.low) & (lower < self.grid.high)
        return between & ((place - lower - 0.5).abs() <= self.options.boundary)

    def _mean(self) -> Tensor:
        return self.float.detach().abs().sum(-1, keepdim=True).double() / self.grid.counts()
