"""Rounding to a grid that gradients pass through, for the weights and for the steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RoundToGrid(torch.autograd.Function):
    """w -> (clamp(round(w / s + z), low, high) - z) s, with the gradients of learned steps.

    With v = w / s + z and Q the bound where v lies beyond it:

        dw = g inside, 0 outside        ds = g (round(v) - v) inside, g (Q - z) outside
        dz = 0 inside, -g s outside

    ds and dz are summed over the group and ds is scaled by `step_gradient`.

    Only w, s and z are kept for the backward pass, which works the rest out again.

    Source: Esser et al. 2020, Learned Step Size Quantization, 1902.08153, equations 3 and 5; for z, Jeon et al.
    2024, L4Q, 2402.04902, with b = -z s.
    """

    @staticmethod
    def forward(
        context: Any, weight: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, step_gradient: Tensor
    ) -> Tensor:
        """Return the rounded weights; weight [rows, groups, size], scale and zero [rows, groups, 1]."""
        context.save_for_backward(weight, scale, zero, step_gradient)
        context.bounds = low, high
        return (codes_of(weight, scale, zero, low, high) - zero) * scale

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of weight, scale and zero."""
        weight, scale, zero, step_gradient = context.saved_tensors
        low, high = context.bounds
        found = gradients(weight, scale, zero, low, high, step_gradient, gradient)
        kept = (g if needed else None for g, needed in zip(found, context.needs_input_grad, strict=False))
        return *kept, None, None, None


def gradients(
    weight: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, step_gradient: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of weight, scale and zero, as `RoundToGrid` has them."""
    place = torch.addcmul(zero, weight, scale.reciprocal())
    inside = (place > low) & (place < high)
    dweight = gradient * inside
    dzero = -scale * (gradient - dweight).sum(-1, keepdim=True)
    miss = torch.where(inside, place.round() - place, place.clamp(low, high) - zero)
    dscale = (gradient * miss).sum(-1, keepdim=True) * step_gradient
    return dweight, dscale, dzero


def codes_of(weight: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """Return clamp(round(w / s + z), low, high)."""
    return torch.addcmul(zero, weight, scale.reciprocal()).round_().clamp_(low, high)


class AsStored(torch.autograd.Function):
    """Numbers as they will be stored; gradients pass straight through (Bengio et al. 2013, 1308.3432)."""

    @staticmethod
    def forward(context: Any, values: Tensor, stored: Tensor) -> Tensor:
        """Return `stored`, which stands for `values`."""
        return stored.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient as it came."""
        return gradient, None


def applied(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """Return what a function with a gradient of its own gives; torch's `apply` has no types."""
    apply: Any = function.apply
    found: Tensor = apply(*arguments)
    return found


def round_to_grid(
    weight: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, step_gradient: Tensor
) -> Tensor:
    """Return `RoundToGrid` of its arguments."""
    return applied(RoundToGrid, weight, scale, zero, low, high, step_gradient)


def as_stored(values: Tensor, stored: Tensor) -> Tensor:
    """Return `stored`, whose gradients go to `values`."""
    return applied(AsStored, values, stored)
