"""Linear maps that train in the arithmetic they will be used in: ternary weights, 8-bit floats, bfloat16.

The optimizer keeps float32 weights; what the product sees is made from them at every step. The parameters keep
their names, so checkpoints are those of any other run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import linear

from steelyard.codecs import Codec, Float8Codec, TernaryCodec
from steelyard.reference.options import Linears

_LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}
_TINY = 1e-5


def install(model: torch.nn.Module, kind: Linears) -> None:
    """Have the linear maps of a model's blocks compute in `kind`; "float32" leaves them."""
    if kind == "float32":
        return
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            module.forward = MethodType(_FORWARDS[kind], module)  # type: ignore[method-assign]


def weight_seen(weight: torch.Tensor, kind: Linears) -> torch.Tensor:
    """Return what the product sees of a float32 weight."""
    if kind == "float8":
        return to_float8(weight, torch.float8_e4m3fn)
    if kind == "ternary":
        return to_ternary(weight)
    return to_bfloat16(weight) if kind == "bfloat16" else weight


def codec_of(kind: Linears) -> Codec | None:
    """Return the codec that stores exactly what the product sees; None for floats that need none."""
    if kind == "ternary":
        return TernaryCodec(rows=None, columns=None, scale_dtype="BF16")
    return Float8Codec("F8_E4M3", None, None, "F8_E8M0") if kind == "float8" else None


def to_ternary(weight: torch.Tensor) -> torch.Tensor:
    """Return scale * trit, with one scale for the matrix.

    scale = mean |W| + 1e-5, in bfloat16 as it is stored; trit = round(clip(W / scale, -1, 1)).

    Source: Kaushal et al. 2024, Spectra, 2407.12327, section 3.1 (TriLM).
    """
    scale = (weight.abs().mean() + _TINY).bfloat16().float()
    return scale * torch.round(torch.clamp(weight / scale, -1, 1))


def to_bfloat16(x: torch.Tensor) -> torch.Tensor:
    """Round to bfloat16."""
    return x.bfloat16().float()


def to_float8(x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """Round to an 8-bit float under a scale of the tensor's own: the power of two that just avoids overflow.

    The scale is 2^-b with b = floor(log2(largest / max |x|)).

    Source: Perez et al. 2023, 2309.17224, FP8-AMAX, with the types of Micikevicius et al. 2022.
    """
    largest = _LARGEST[kind]
    extreme = float(x.detach().abs().max())
    if extreme == 0 or not math.isfinite(extreme):
        return x
    scale = 2.0 ** min(math.floor(math.log2(largest / extreme)), 120)
    return (x * scale).to(kind).float() / scale


def _ternary_forward(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Straight through: the gradient of the ternary weight is taken for that of the float one."""
    weight = self.weight + (to_ternary(self.weight) - self.weight).detach()
    return linear(x, weight, self.bias)


def _low_precision(
    forward: Callable[[torch.Tensor], torch.Tensor], backward: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[..., torch.Tensor]:
    class Product(torch.autograd.Function):
        """x W^T of rounded operands; both products of the backward pass take the rounded gradient."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            x, weight = forward(x), forward(weight)
            ctx.save_for_backward(x, weight)
            return x @ weight.T

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:
            x, weight = ctx.saved_tensors
            rounded = backward(gradient)
            return rounded @ weight, rounded.flatten(0, -2).T @ x.flatten(0, -2)

    def run(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        apply: Any = Product.apply
        product: torch.Tensor = apply(x, self.weight)
        return product if self.bias is None else product + self.bias

    return run


_FORWARDS: dict[str, Callable[..., torch.Tensor]] = {
    "ternary": _ternary_forward,
    "bfloat16": _low_precision(to_bfloat16, to_bfloat16),
    "float8": _low_precision(
        lambda x: to_float8(x, torch.float8_e4m3fn), lambda g: to_float8(g, torch.float8_e5m2)
    ),
}
