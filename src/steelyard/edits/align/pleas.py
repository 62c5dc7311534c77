"""PLeaS: units that agree are joined, the others are kept from both models, and weights are fitted to both.

Every linear map of the result is to give, from what it will read, what the two models' maps gave: where units are
joined the mean of both, where they are kept apart each model's own. Its input is taken to be likewise: means of
joined units, and the kept ones of each. With x and y what the models' maps read, the fit needs the moments of
x and y with themselves and each other alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from steelyard.edits.align.maps import Map
from steelyard.edits.align.moments import Moments
from steelyard.edits.align.opened import Two
from steelyard.edits.align.symmetry import Attention


@dataclass(frozen=True)
class Partial:
    """How a space of the result is made of the models' units.

    Attributes:
        joined_first: units of the first model that are joined, int64 [k].
        joined_second: the second's, in the order of their partners, int64 [k].
        first: units only the first has, int64 [n - k].
        second: units only the second has, int64 [n - k].
    """

    joined_first: np.ndarray
    joined_second: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @property
    def size(self) -> int:
        """Units of the result."""
        return len(self.joined_first) + len(self.first) + len(self.second)

    def written(self, side: int) -> np.ndarray:
        """Return how a model's units are written into the result's, float64 [size, n]: joined ones by half."""
        found = self.read(side)
        found[: len(self.joined_first)] *= 0.5
        return found

    def read(self, side: int) -> np.ndarray:
        """Return which of a model's units each of the result stands for, float64 [size, n] of zeros and ones."""
        joined, own = (self.joined_first, self.first) if side == 0 else (self.joined_second, self.second)
        found = np.zeros((self.size, len(joined) + len(own)))
        found[np.arange(len(joined)), joined] = 1.0
        start = len(joined) + (len(self.first) if side == 1 else 0)
        found[np.arange(start, start + len(own)), own] = 1.0
        return found

    def of(self, side: int) -> np.ndarray:
        """Return the places of the result that a model has a part in, bool [size]."""
        return np.asarray(self.read(side).any(axis=1))


def join(order: Map, likeness: np.ndarray, size: int) -> Partial:
    """Return a space of a size between one model's and both, joined where the matched units are most alike.

    Args:
        order: the second model's unit for each of the first's, int64 [n].
        likeness: of every two units, [n, n].
        size: of the result, n to 2 n.

    Source: Nasery et al. 2024, arXiv 2407.02447, section 3.2; the published code cuts at a quantile of the matched
        units' products.
    """
    n = len(order)
    count = 2 * n - size
    alike = likeness[np.arange(n), order]
    best = np.zeros(n, bool)
    best[np.argsort(-alike, kind="stable")[:count]] = True
    return Partial(np.flatnonzero(best), order[best], np.flatnonzero(~best), order[~best])


def join_heads(
    attention: Attention, orders: Mapping[str, Map], likeness: Mapping[str, np.ndarray], kv_heads: int
) -> dict[str, Partial]:
    """Return an attention's spaces with heads joined where those that belong to each other are most alike.

    A key head is joined, or kept from both models, with its values and all query heads that read it.

    Args:
        attention: of one model.
        orders: of the spaces.
        likeness: of every two units of each space, [n, n].
        kv_heads: of the result, those of one model to twice as many.

    Source: as `join`; that heads are the units is a choice made here.
    """
    alike = np.zeros(attention.kv_heads)
    spaces = [attention.space(part) for part in ("query", "key", "value", "attended")]
    for space in spaces:
        order = orders[space]
        alike += likeness[space][np.arange(len(order)), order].reshape(attention.kv_heads, -1).sum(axis=1)
    best = np.zeros(attention.kv_heads, bool)
    best[np.argsort(-alike, kind="stable")[: 2 * attention.kv_heads - kv_heads]] = True
    found = {}
    for space in spaces:
        order = np.asarray(orders[space])
        rows = np.repeat(best, len(order) // attention.kv_heads)
        found[space] = Partial(np.flatnonzero(rows), order[rows], np.flatnonzero(~rows), order[~rows])
    return found


def fully(order: Map) -> Partial:
    """Return a space in which every unit is joined."""
    none = np.zeros(0, np.int64)
    return Partial(np.arange(len(order)), np.asarray(order), none, none)


class LeastSquares:
    """The tensors of the result.

    Args:
        two: the models, of one size.
        spaces: how each space is made.
        moments: of what the maps read, by input key; empty leaves the permuted means.
        ridge: how strongly weights are held at the permuted means, relative to the mean power of what is read.

    Source: Nasery et al. 2024, arXiv 2407.02447, section 3.3 and the default branch of the published code: one
        fit for the mean of both models' features, in which what only one model has does not reach what only the
        other has. Solved in closed form here, by gradient steps there.
    """

    def __init__(
        self, two: Two, spaces: Mapping[str, Partial], moments: Mapping[str, Moments], ridge: float = 1e-4
    ) -> None:
        self._two, self._spaces, self._moments, self._ridge = two, spaces, moments, ridge
        self.residuals: dict[str, tuple[float, float]] = {}
        self._last: tuple[str, np.ndarray, np.ndarray | None] = ("", np.zeros(0), None)

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a tensor of the result."""
        dims = self._two.symmetry.dims.get(name)
        if dims is None:
            return shape
        return tuple(
            sum(self._spaces[space].size for space in spaces) if spaces else length
            for spaces, length in zip(dims, shape, strict=True)
        )

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor of the result, float64; linear maps are fitted where their moments are known."""
        tensors = self._two.first.spec.tensors
        tensor = tensors[name]
        weight = f"{tensor.module}.weight"
        mapped = weight in tensors and tensors[weight].kind == "linear"
        key = self._two.first.spec.input_keys.get(weight)
        if not mapped or key is None or key not in self._moments:
            return self.mean(name)
        fitted, bias = self._fit(weight, self._moments[key])
        if name != weight:
            assert bias is not None
            return bias
        return fitted.T if tensor.transposed else fitted

    def mean(self, name: str) -> np.ndarray:
        """Return the permuted mean: joined units of both models, kept ones of their own alone."""
        dims = self._two.symmetry.dims[name]
        tensor = self._two.first.spec.tensors[name]
        reads = (0 if tensor.transposed else 1) if tensor.kind == "linear" else -1
        total: np.ndarray | None = None
        for side, read in enumerate((self._two.read_first, self._two.read_second)):
            part = read(name).astype(np.float64)
            halved = False
            for dim, spaces in enumerate(dims):
                if spaces:
                    part = np.moveaxis(
                        np.tensordot(self._matrix(spaces, side, dim != reads), part, axes=(1, dim)), 0, dim
                    )
                    halved |= dim != reads
            part = part if halved else part / 2
            total = part if total is None else total + part
        assert total is not None
        return total

    def _matrix(self, spaces: tuple[str, ...], side: int, written: bool) -> np.ndarray:
        """Return the matrix that takes a model's units along a dimension to the result's."""
        from scipy.linalg import block_diag

        made = [
            self._spaces[space].written(side) if written else self._spaces[space].read(side) for space in spaces
        ]
        found: np.ndarray = made[0] if len(made) == 1 else block_diag(*made)
        return found

    def _fit(self, name: str, moments: Moments) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a fitted weight [out, in] and its bias."""
        if self._last[0] == name:
            return self._last[1], self._last[2]
        two = self._two
        tensor = two.first.spec.tensors[name]
        out, into = two.symmetry.dims[name][:: -1 if tensor.transposed else 1]
        bias = f"{tensor.module}.bias"
        biased = bias in two.first.spec.tensors
        weights = [read(name).astype(np.float64) for read in (two.read_first, two.read_second)]
        weights = [w.T if tensor.transposed else w for w in weights]
        start = self.mean(name)
        start = start.T if tensor.transposed else start
        writes = [self._matrix(out, side, True) if out else np.eye(len(start)) / 2 for side in (0, 1)]
        reads = [self._matrix(into, side, True) if into else np.eye(start.shape[1]) / 2 for side in (0, 1)]
        sums = _stacked(moments, biased)
        put = np.concatenate([writes[side] @ weights[side] for side in (0, 1)], axis=1)
        taken = np.concatenate(reads, axis=1)
        gram, target = taken @ sums @ taken.T, put @ sums @ taken.T
        power = float(np.einsum("ij,jk,ik->", put, sums, put))
        fitted = start.copy()
        for rows, columns in self._blocks(out, into, start.shape):
            inner = gram[np.ix_(columns, columns)]
            inner = inner + self._ridge * max(float(np.trace(inner)) / max(len(columns), 1), 1e-12) * np.eye(
                len(columns)
            )
            missing = target[np.ix_(rows, columns)] - start[np.ix_(rows, columns)] @ gram[np.ix_(columns, columns)]
            fitted[np.ix_(rows, columns)] += np.linalg.solve(inner, missing.T).T
        errors = [power - 2 * float((w * target).sum()) + float(((w @ gram) * w).sum()) for w in (start, fitted)]
        self.residuals[name] = errors[0] / max(power, 1e-300), errors[1] / max(power, 1e-300)
        shift: np.ndarray | None = None
        if biased:
            means = moments.mean_first / moments.tokens, moments.mean_second / moments.tokens
            shift = self.mean(bias)
            for side in (0, 1):
                shift = shift + (writes[side] @ weights[side] - fitted @ reads[side]) @ means[side]
        self._last = (name, fitted, shift)
        return fitted, shift

    def _blocks(
        self, out: tuple[str, ...], into: tuple[str, ...], shape: tuple[int, ...]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return which outputs are fitted on which inputs: what one model alone has sees nothing of the other's."""
        sees = [self._parts(spaces, length) for spaces, length in zip((out, into), shape, strict=True)]
        found = []
        for first, second in ((True, True), (True, False), (False, True)):
            rows = np.flatnonzero((sees[0][0] == first) & (sees[0][1] == second))
            columns = np.flatnonzero((sees[1][0] & first) | (sees[1][1] & second))
            if len(rows) and len(columns):
                found.append((rows, columns))
        return found

    def _parts(self, spaces: tuple[str, ...], length: int) -> tuple[np.ndarray, np.ndarray]:
        if not spaces:
            return np.ones(length, bool), np.ones(length, bool)
        return (
            np.concatenate([self._spaces[space].of(0) for space in spaces]),
            np.concatenate([self._spaces[space].of(1) for space in spaces]),
        )


def _stacked(moments: Moments, centred: bool) -> np.ndarray:
    """Return the mean of (x, y) (x, y)^T, float64 [n + m, n + m], less that of the means where asked."""
    sums = np.block([[moments.first, moments.cross], [moments.cross.T, moments.second]]) / moments.tokens
    if not centred:
        return sums
    mean = np.concatenate([moments.mean_first, moments.mean_second]) / moments.tokens
    return np.asarray(sums - np.outer(mean, mean))
