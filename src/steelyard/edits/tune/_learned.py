"""Matrices in training whose codes follow a float weight: what LSQ, OFQ and L4Q share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from steelyard.edits.tune._fake import as_stored, codes_of, round_to_grid
from steelyard.edits.tune._grid import Grid, into_cells
from steelyard.edits.tune._oscillation import Oscillation
from steelyard.edits.tune.trainable import Group, Moment, Start


class OnGrid(ABC):
    """A matrix on a grid; says what is stored of it and watches its codes.

    Args:
        start: where it begins; codes, scales and zero points of it are kept.

    Attributes:
        step_size: the mean step at the start, the unit of the rates.
    """

    def __init__(self, start: Start) -> None:
        self.grid = Grid.of(start.codec, (start.weight.shape[0], start.weight.shape[1]))
        codes, scale, zero = self.grid.read(start.parts)
        original = self.grid.fold(torch.from_numpy(np.array(start.weight, np.float32)))
        self.sign = torch.copysign(torch.ones(()), scale)
        self.scale, self.zero = scale, zero
        self.origin = into_cells(original, codes, scale, zero)
        self.step_gradient = (self.grid.counts() * max(1, self.grid.high)).rsqrt()
        self.step_size = float(scale.abs().mean())
        self.oscillation = Oscillation(codes)

    @abstractmethod
    def placed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the float weights, the scales and the zero points as they now stand, without gradients."""

    def codes(self) -> Tensor:
        """Return the codes as they now stand."""
        return codes_of(*self.placed(), self.grid.low, self.grid.high)

    def begin(self, moment: Moment) -> None:
        """Nothing to do."""
        return

    def before_update(self, moment: Moment) -> None:
        """Nothing to do."""
        return

    def after_update(self, moment: Moment) -> None:
        """Watch the codes."""
        with torch.no_grad():
            self.oscillation.observe(self.codes())

    def parts(self) -> dict[str, np.ndarray]:
        """Return what is stored."""
        with torch.no_grad():
            _, scale, zero = self.placed()
            return self.grid.write(self.codes(), scale, zero)

    def state(self) -> dict[str, Tensor]:
        """Return what has been seen of the codes."""
        return {f"oscillation.{name}": value for name, value in self.oscillation.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        head = "oscillation."
        self.oscillation.load({name.removeprefix(head): v for name, v in state.items() if name.startswith(head)})

    def report(self) -> dict[str, float]:
        """Return shares of oscillating codes."""
        return self.oscillation.report()


class LearnedSteps(OnGrid):
    """A matrix whose steps are learned; its float weight is what `latent` returns."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.scale = self.scale.clone().requires_grad_()

    @abstractmethod
    def latent(self) -> Tensor:
        """Return the float weight, differentiable, [rows, groups, size]."""

    def weight(self) -> Tensor:
        """Return the matrix on the grid of the steps as they are stored."""
        scale = as_stored(self.scale, self._stored_scale())
        grouped = round_to_grid(self.latent(), scale, self.zero, self.grid.low, self.grid.high, self.step_gradient)
        return self.grid.unfold(grouped)

    def placed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the float weight, the steps and the zero points."""
        return self.latent().detach(), self._stored_scale(), self.zero

    def steps(self) -> Group:
        """Return the steps as the optimizer sees them."""
        return Group({"scale": self.scale}, self.step_size, "step")

    def after_update(self, moment: Moment) -> None:
        """Keep the sign of every step, and watch the codes."""
        with torch.no_grad():
            least = torch.finfo(self.grid.scale_type).smallest_normal
            self.scale.copy_((self.scale * self.sign).clamp(min=least) * self.sign)
        super().after_update(moment)

    def _stored_scale(self) -> Tensor:
        return self.grid.stored_scale(self.scale.detach())


class LearnedStepSize(LearnedSteps):
    """Float weights and their steps, both learned (LSQ)."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.float = self.origin.requires_grad_()

    def latent(self) -> Tensor:
        """Return the float weights."""
        return self.float

    def groups(self) -> Sequence[Group]:
        """Return the weights and the steps."""
        return [Group({"weight": self.float}, self.step_size), self.steps()]
