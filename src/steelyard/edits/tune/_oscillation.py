"""How often codes turn back: the weights that jump to and fro between two codes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_OFTEN = 0.02


class Oscillation:
    """Counts, for every code, how often it changed in the direction opposite to its last change.

    Args:
        codes: where they are at the beginning, of any shape.
        momentum: of the running frequency.

    Attributes:
        turns: how often each code has turned back, int16.
        frequency: running mean of it per step, float32.

    Source: Nagel et al. 2022, Overcoming oscillations in quantization-aware training, 2203.11086, equation 3; Liu
    et al. 2023, OFQ, 2302.02210.
    """

    def __init__(self, codes: Tensor, momentum: float = 0.01) -> None:
        self.momentum = momentum
        self.last = codes.to(torch.int8)
        self.direction = torch.zeros_like(self.last)
        self.turns = torch.zeros(codes.shape, dtype=torch.int16)
        self.frequency = torch.zeros(codes.shape)
        self.changed = 0

    def observe(self, codes: Tensor) -> None:
        """Note the codes of a step."""
        now = codes.to(torch.int8)
        moved = now - self.last
        self.changed = int(torch.count_nonzero(moved))
        self.frequency.mul_(1 - self.momentum)
        if self.changed:
            # Few codes change in a step; only they are looked at.
            where = moved.reshape(-1).nonzero()[:, 0]
            direction = moved.reshape(-1)[where].sign()
            turned = self.direction.reshape(-1)[where] == -direction
            self.direction.view(-1)[where] = direction
            back = where[turned]
            self.turns.view(-1)[back] += 1
            self.frequency.view(-1)[back] += self.momentum
        self.last = now

    def report(self) -> dict[str, float]:
        """Return the share of codes that turned back at all, and of those that do so often now."""
        count = max(1, self.turns.numel())
        return {
            "turned": int(torch.count_nonzero(self.turns)) / count,
            "turns": int(self.turns.sum()) / count,
            "oscillating": int((self.frequency > _OFTEN).sum()) / count,
        }

    def state(self) -> dict[str, Tensor]:
        """Return everything the next step depends on."""
        return {
            "last": self.last,
            "direction": self.direction,
            "turns": self.turns,
            "frequency": self.frequency,
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        self.last, self.direction = state["last"].clone(), state["direction"].clone()
        self.turns, self.frequency = state["turns"].clone(), state["frequency"].clone()
