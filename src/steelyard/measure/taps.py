"""Hooks on a block's linear maps: what goes in, and what the gradient coming out says about their weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.measure.windows import Batch

if TYPE_CHECKING:
    import torch


@dataclass
class InputMoment:
    """Sums over the tokens that entered a linear map.

    Attributes:
        outer: sum of x x^T [in, in] float64.
        total: sum of x [in] float64.
        low: least value per channel [in] float32.
        high: greatest value per channel [in] float32.
        rows: number of tokens.
    """

    outer: np.ndarray
    total: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rows: int = 0

    def mean(self) -> np.ndarray:
        """Mean of x x^T [in, in] float64, exactly symmetric."""
        mean = self.outer / max(self.rows, 1)
        return np.asarray((mean + mean.T) / 2)


@dataclass
class Taps:
    """Gathers statistics of named linear maps while batches run forward and backward.

    For a batch of sequences s with inputs x_t and output gradients g_t (of a loss summed over everything scored),
    two sums are kept: of x_t x_t^T over tokens, and for every output channel i

        sum over s of | sum over t in s of g_ti x_t |^2,

    the squared length of row i of the sequence's weight gradient. Gradients of different sequences are
    independent when labels are sampled, those of tokens of one sequence are not: attention spreads one token's
    error over the others, so the sum over t stands inside the square.

    Attributes:
        modules: the linear maps by the name of the tensor that fills them.
        inputs: sums by owner.
        owner: for each tensor, the first tensor that was seen to read the very same input.
        gradients: for each tensor, the sums above [out] float64.
        closed: tensors whose sums are added in closed form, not by hooks.
    """

    modules: Mapping[str, Any]
    inputs: dict[str, InputMoment] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    gradients: dict[str, np.ndarray] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    _valid: Any = None
    _seen: dict[tuple[Any, ...], str] = field(default_factory=dict)
    _held: list[Any] = field(default_factory=list)
    _grams: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    @contextmanager
    def attached(self) -> Iterator[Taps]:
        """Put the hooks on, and take them off again."""
        handles = []
        try:
            for name, module in self.modules.items():
                handles.append(module.register_forward_hook(self._hook(name)))
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self.clear()

    def begin(self, batch: Batch) -> None:
        """Say which batch runs next."""
        import torch

        self.clear()
        self._valid = torch.from_numpy(batch.valid)

    def clear(self) -> None:
        """Let go of the batch's tensors."""
        self._seen.clear()
        self._held.clear()
        self._grams.clear()

    def add_rows(self, name: str, sums: np.ndarray) -> None:
        """Add to a tensor's gradient sums [out], where they are known in closed form."""
        known = self.gradients.get(name)
        self.gradients[name] = sums if known is None else known + sums

    def _hook(self, name: str) -> Any:
        def hook(module: Any, args: tuple[Any, ...], output: Any) -> None:
            x = args[0].detach()
            # The tensor is held until the batch ends, so its memory is not used again and the key stays true.
            key = (x.data_ptr(), tuple(x.shape), x.stride())
            self._held.append(x)
            first = self._seen.setdefault(key, name)
            self.owner.setdefault(name, self.owner.get(first, first))
            if first == name:
                self._add_input(name, self._rows(x))
            if output.requires_grad:
                output.register_hook(lambda gradient: self._add_gradient(name, key, x, gradient))

        return hook

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() == 3 and x.shape[:2] == self._valid.shape:
            return x.flatten(0, 1) if bool(self._valid.all()) else x[self._valid]
        return x.reshape(-1, x.shape[-1])

    def _add_input(self, name: str, rows: torch.Tensor) -> None:
        outer = (rows.T @ rows).double().numpy()
        total = rows.double().sum(dim=0).numpy()
        low, high = (bound.numpy() for bound in rows.aminmax(dim=0))
        known = self.inputs.get(name)
        if known is None:
            self.inputs[name] = InputMoment(outer, total, low.copy(), high.copy(), len(rows))
            return
        known.outer += outer
        known.total += total
        np.minimum(known.low, low, out=known.low)
        np.maximum(known.high, high, out=known.high)
        known.rows += len(rows)

    def _add_gradient(self, name: str, key: tuple[Any, ...], x: torch.Tensor, gradient: torch.Tensor) -> None:
        if name in self.closed:
            return
        g = gradient.detach()
        if x.dim() != 3:
            # Tokens gathered from many sequences (experts): which belong together is not known here.
            flat = g.reshape(-1, g.shape[-1])
            lengths = x.reshape(len(flat), -1).square().sum(1, keepdim=True)
            self.add_rows(name, (flat.square() * lengths).sum(0).double().numpy())
            return
        self.add_rows(name, squared_rows(x, g, self._grams, key).double().numpy())


def squared_rows(
    x: torch.Tensor, g: torch.Tensor, grams: dict[tuple[Any, ...], torch.Tensor], key: tuple[Any, ...]
) -> torch.Tensor:
    """Return sum over sequences of the squared row lengths of g^T x.

    Args:
        x: inputs [b, t, in].
        g: output gradients [b, t, out]; zero for padding.
        grams: products x x^T [b, t, t] already made, by key; used where they are cheaper than g^T x.
        key: of this x.

    Returns:
        [out] float64.
    """
    import torch

    tokens, width, height = x.shape[1], x.shape[2], g.shape[2]
    if tokens * (height + (0 if key in grams else width)) > height * width:
        rows = [(a.T @ b).square().sum(1) for a, b in zip(g, x, strict=True)]
        return torch.stack(rows).double().sum(0)
    if key not in grams:
        grams[key] = x @ x.transpose(1, 2)
    return ((grams[key] @ g) * g).sum(1).double().sum(0)
