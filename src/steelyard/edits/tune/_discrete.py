"""The V step: some codes move towards where a gradient wants the weights, and a matrix trained by such steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from steelyard.edits.tune.protocol import Quantized
from steelyard.edits.tune.trainable import Group, Moment


@dataclass(frozen=True)
class Reach:
    """How far one V step may go.

    Attributes:
        share: of the units that may change.
        trust: largest norm of all changes together, as a share of the norm of the matrix; None for any. One change
            is always allowed.
        first: which those are: "gain", those whose change brings the weights most nearer to the target, or
            "distance", those furthest from it.
    """

    share: float
    trust: float | None
    first: Literal["gain", "distance"] = "gain"


def discrete_step(matrix: Quantized, target: Tensor, reach: Reach) -> float:
    """Move the codes of some units towards a target; return the share of the units that changed.

    The subspace is some of the units. There the codes become those nearest to the target, which minimises the
    quadratic model of the loss whose unconstrained minimum the target is; elsewhere they stay. The units with the
    largest gain are the subspace on which that model falls furthest. The units furthest from the target are cheaper
    to find, but may be such as have no better code, step after step.

    Args:
        matrix: whose codes move.
        target: [out, in], where the weights should be, such as x - g / L.
        reach: how far.

    Source: Malinovskii et al. 2024, PV-Tuning, 2405.14852, algorithm 3 and section 3.3, the linearized V step on a
        subspace; its authors' program takes the units furthest from the target.
    """
    with torch.no_grad():
        wanted = matrix.units(target)
        everything = torch.arange(len(wanted))
        now = matrix.values(matrix.codes, everything)
        count = math.ceil(reach.share * len(wanted))
        if count == 0:
            return 0.0
        if count == len(wanted) and reach.trust is None:
            chosen, codes = everything, matrix.project(wanted, everything)
        elif reach.first == "gain":
            codes = matrix.project(wanted, everything)
            after = (matrix.values(codes, everything) - wanted).square().sum(1)
            chosen = torch.topk((wanted - now).square().sum(1) - after, count, sorted=True).indices
            codes = codes[chosen]
        else:
            chosen = torch.topk((wanted - now).square().sum(1), count, sorted=True).indices
            codes = matrix.project(wanted[chosen], chosen)
        if reach.trust is not None:
            moved = (matrix.values(codes, chosen) - now[chosen]).square().sum(1).cumsum(0).sqrt()
            allowed = int(torch.searchsorted(moved, reach.trust * float(now.norm()), side="left")) + 1
            chosen, codes = chosen[:allowed], codes[:allowed]
        changed = (codes != matrix.codes[chosen]).any(1)
        matrix.codes[chosen[changed]] = codes[changed]
        return float(changed.sum()) / len(wanted)


class DiscreteTraining:
    """A matrix whose continuous parameters the loop's optimizer moves (P), and whose codes V steps move.

    Beside the codes stands a buffer of float weights that begins where the codes are. Adam's update, scaled to a
    share of the norm of the matrix, moves the buffer at each step, and codes then follow it as far as `reach` lets
    them.

    Args:
        matrix: in training.
        reach: of a V step.
        travel: way of the buffer over the whole run, as a share of the norm of the matrix. Steps become shorter as
            half a cosine.
        momentum: of the gradients.
        memory: share of the way from codes to buffer that is kept after a step: 1 keeps all that could not be
            followed yet, 0 begins every step at the codes.
    """

    _SECOND = 0.95

    def __init__(self, matrix: Quantized, reach: Reach, travel: float, momentum: float, memory: float) -> None:
        self.matrix, self.reach, self.travel, self.momentum, self.memory = matrix, reach, travel, momentum, memory
        with torch.no_grad():
            self._buffer = matrix.dequantize().clone()
        self._first = torch.zeros_like(self._buffer)
        self._second = torch.zeros_like(self._buffer)
        self._start = matrix.codes.clone()
        self._count = 0
        self._changes = 0.0
        self._weight: Tensor | None = None

    def begin(self, moment: Moment) -> None:
        """Nothing to do."""

    def weight(self) -> Tensor:
        """Return the matrix, whose own gradient is kept for the V step."""
        found = self.matrix.dequantize()
        if found.requires_grad and self.reach.share > 0:
            found.retain_grad()
            self._weight = found
        return found

    def groups(self) -> Sequence[Group]:
        """Return the continuous parameters."""
        return self.matrix.groups()

    def before_update(self, moment: Moment) -> None:
        """Move the buffer by the gradient of the weights."""
        if self._weight is None:
            return
        gradient = self._weight.grad
        self._weight = None
        if gradient is None:
            return
        self._count += 1
        self._first.mul_(self.momentum).add_(gradient, alpha=1 - self.momentum)
        self._second.mul_(self._SECOND).addcmul_(gradient, gradient, value=1 - self._SECOND)
        update = self._first / (self._second.sqrt() + 1e-30)
        norm = float(update.norm())
        if norm > 0.0 and math.isfinite(norm):
            length = self.travel * (1 + math.cos(math.pi * moment.share)) / moment.steps
            self._buffer.sub_(update, alpha=length * float(self._buffer.norm()) / norm)

    def after_update(self, moment: Moment) -> None:
        """Let codes follow the buffer."""
        self.matrix.tidy()
        if self.reach.share > 0:
            self._changes += discrete_step(self.matrix, self._buffer, self.reach)
            if self.memory < 1:
                with torch.no_grad():
                    self._buffer.lerp_(self.matrix.dequantize(), 1 - self.memory)

    def parts(self) -> dict[str, np.ndarray]:
        """Return what is stored."""
        return self.matrix.parts()

    def state(self) -> dict[str, Tensor]:
        """Return the codes, the buffer and its moments."""
        count = torch.tensor([float(self._count), self._changes], dtype=torch.float64)
        return {
            "codes": self.matrix.codes,
            "start": self._start,
            "buffer": self._buffer,
            "first": self._first,
            "second": self._second,
            "counts": count,
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        self.matrix.codes.copy_(state["codes"])
        self._start.copy_(state["start"])
        self._buffer.copy_(state["buffer"])
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self._count, self._changes = int(state["counts"][0]), float(state["counts"][1])

    def report(self) -> dict[str, float]:
        """Return the share of units that have other codes than at first, and that changed in a step on average."""
        moved = (self.matrix.codes != self._start).any(1).float().mean()
        return {"moved": float(moved), "moved per step": self._changes / max(1, self._count)}
