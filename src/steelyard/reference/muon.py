"""Muon: momentum whose matrices are orthogonalized (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

For a matrix W with gradient G:
    M <- mu M + G;    O = orthogonalize(G + mu M);    W <- W - lr sqrt(max(1, rows / cols)) O.
Orthogonalization is the quintic Newton-Schulz iteration X <- a X + (b A + c A^2) X, A = X X^T, in float32: the
bfloat16 of the original is slow on CPUs.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Return the nearly orthogonal factors of a stack of matrices [n, rows, cols] (singular values near 1)."""
    tall = matrices.size(1) > matrices.size(2)
    x: torch.Tensor = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        a = x @ x.transpose(1, 2)
        x = _A * x + (_B * a + _C * (a @ a)) @ x
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Muon over 2-D parameters; parameters of one shape are updated as one stack."""

    def __init__(
        self, parameters: list[torch.nn.Parameter], lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter once."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for (rows, cols), parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    gradient = parameter.grad
                    assert gradient is not None
                    state = self.state[parameter]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(parameter)
                    buffer = state["momentum"]
                    buffer.mul_(group["momentum"]).add_(gradient)
                    updates.append(gradient.add(buffer, alpha=group["momentum"]))
                directions = orthogonalize(torch.stack(updates))
                rate = group["lr"] * max(1.0, rows / cols) ** 0.5
                for parameter, direction in zip(parameters, directions.unbind(0), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(direction, alpha=-rate)
