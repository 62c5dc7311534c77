"""Fusion by optimal transport: each unit of one model is set against a mixture of the other's, then averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from steelyard.edits.align.assignment import assign_attention
from steelyard.edits.align.maps import Map, along, rows
from steelyard.edits.align.moments import Moments
from steelyard.edits.align.opened import Two
from steelyard.edits.align.symmetry import Attention
from steelyard.edits.align.transport import transport

_PARTS = ("query", "key", "value", "attended")


class Fusion:
    """Soft maps of one model's units to another's, and the tensors they make.

    Args:
        two: the models; the result has the first one's sizes.
        regularization: of the plans, see `transport`.
        sweeps: passes over the spaces when weights are compared. In the first a unit is known by the weights whose
            other side is matched already, as in the paper; later ones compare all weights of a unit.
        reads: "sum" lets a unit that stands for several be read as strongly as all of them were, which keeps the
            function where they were copies; "mean" is the paper's. Models of one width know no difference.

    Source: Singh and Jaggi 2020, arXiv 1910.05653, algorithm 1; heads of attention are assigned, not mixed.
    """

    def __init__(self, two: Two, regularization: float = 0.0, sweeps: int = 1, reads: str = "sum") -> None:
        self._two, self._regularization, self._reads = two, regularization, reads
        self._sweeps = sweeps
        self.maps: dict[str, Map] = {}
        self.costs: dict[str, float] = {}

    def match_weights(self) -> None:
        """Find the maps by the squared distance of units' weights."""
        for sweep in range(self._sweeps):
            for unit in self._two.symmetry.from_the_input():
                if isinstance(unit, Attention):
                    self._assign(unit, lambda part: self._sums(part, whole=True)[0])
                else:
                    self._transport(unit, self._weight_cost(unit, whole=sweep > 0))

    def match_activations(self, moments: Mapping[str, Moments], likeness: Mapping[str, np.ndarray]) -> None:
        """Find the maps by the squared distance of what units do on text.

        Args:
            moments: of both models, by the space that was read.
            likeness: of the heads' rows, by space.
        """
        for space in self._two.symmetry.plain:
            found = moments[space]
            own, other = np.diag(found.first), np.diag(found.second)
            self._transport(space, (own[:, None] + other[None, :] - 2 * found.cross) / found.tokens)
        for attention in self._two.symmetry.attentions:
            self._assign(attention, lambda part: likeness[part])

    def tensor(self, name: str, share: float) -> np.ndarray:
        """Return a fused tensor, float32.

        Args:
            name: of the tensor.
            share: of the second model.
        """
        ours = self._two.read_first(name)
        fused: np.ndarray = (1 - share) * ours + share * self.other(name)
        return fused.astype(np.float32)

    def other(self, name: str) -> np.ndarray:
        """Return the second model's tensor in the first one's units."""
        return self._mapped(name, self._two.read_second(name))

    def _mapped(self, name: str, tensor: np.ndarray, without: int = -1) -> np.ndarray:
        symmetry, other = self._two.symmetry, self._two.other
        spec = self._two.first.spec.tensors[name]
        for dim, spaces in enumerate(symmetry.dims.get(name, ())):
            if not spaces or dim == without or any(space not in self.maps for space in spaces):
                continue
            parts = []
            for space in spaces:
                stretch = other.stretch(name, dim, space)
                part = np.take(tensor, np.arange(stretch.start, stretch.stop), axis=dim)
                found = self.maps[space]
                if found.ndim == 2:
                    is_read = spec.kind == "linear" and dim == (0 if spec.transposed else 1)
                    found = found * (found.shape[1] / found.shape[0] if is_read and self._reads == "sum" else 1.0)
                parts.append(along(part, dim, found))
            tensor = np.concatenate(parts, axis=dim)
        return tensor

    def _known(self, name: str, dim: int) -> bool:
        dims = self._two.symmetry.dims[name]
        return all(space in self.maps for d, spaces in enumerate(dims) if d != dim for space in spaces)

    def _weight_cost(self, space: str, whole: bool) -> np.ndarray:
        products, own, other = self._sums(space, whole)
        return np.asarray(own[:, None] + other[None, :] - 2 * products)

    def _sums(self, space: str, whole: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return inner products and squared lengths of the units' weights whose other side is matched."""
        two = self._two
        symmetry, theirs = two.symmetry, two.other
        size, other_size = symmetry.sizes[space], theirs.sizes[space]
        products, own, other = np.zeros((size, other_size)), np.zeros(size), np.zeros(other_size)
        for name, dim in symmetry.holders(space):
            if not self._known(name, dim):
                continue
            if not whole and self._is_outgoing(name, dim):
                continue
            a = rows(symmetry, name, dim, space, two.read_first(name)).astype(np.float64)
            b = rows(theirs, name, dim, space, self._mapped(name, two.read_second(name), dim)).astype(np.float64)
            products += a @ b.T
            own += (a**2).sum(axis=1)
            other += (b**2).sum(axis=1)
        return products, own, other

    def _is_outgoing(self, name: str, dim: int) -> bool:
        spec = self._two.first.spec.tensors[name]
        return spec.kind == "linear" and dim == (0 if spec.transposed else 1)

    def _transport(self, space: str, cost: np.ndarray) -> None:
        plan = transport(cost, self._regularization)
        self.costs[space] = float((plan * cost).sum())
        self.maps[space] = plan * len(plan)

    def _assign(self, attention: Attention, products: Callable[[str], np.ndarray]) -> None:
        found = {part: products(attention.space(part)) for part in _PARTS}
        self.maps |= assign_attention(attention, found)
