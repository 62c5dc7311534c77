"""Linear changes of tensors: what is multiplied from which side. Applied tensor by tensor, in float64."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from steelyard.edits.prepare.network import Network, Pair, Read


@dataclass(frozen=True)
class Join:
    """Channels made anew: new channel `into[i]` gets `weight[i]` times old channel `taken[i]`, summed.

    Attributes:
        taken: int64 [n].
        weight: float64 [n].
        into: int64 [n].
        size: number of new channels.
    """

    taken: np.ndarray
    weight: np.ndarray
    into: np.ndarray
    size: int

    def apply(self, tensor: np.ndarray) -> np.ndarray:
        """Return the tensor with its first axis made anew."""
        made = np.zeros((self.size, *tensor.shape[1:]))
        np.add.at(made, self.into, self.weight.reshape(-1, *[1] * (tensor.ndim - 1)) * tensor[self.taken])
        return made


Factor = np.ndarray | Join


@dataclass
class Change:
    """What happens to one tensor, in order; a factor is a vector of scales or a matrix.

    A matrix smaller than the axis acts on each of the equal parts of it, as on the heads of attention; a stack of
    matrices [parts, n, n] has one for each part.

    Attributes:
        rows: factors multiplied from the left, W <- F W or diag(f) W. Vectors have these only.
        columns: factors multiplied from the right, W <- W F or W diag(f).
        ones: whether the tensor becomes all ones instead.
    """

    rows: list[Factor] = field(default_factory=list)
    columns: list[Factor] = field(default_factory=list)
    ones: bool = False

    def apply(self, tensor: np.ndarray) -> np.ndarray:
        """Return the changed tensor, float64."""
        changed = np.ones(tensor.shape) if self.ones else tensor.astype(np.float64)
        for factor in self.rows:
            changed = _from_left(factor, changed)
        for factor in self.columns:
            turned = factor.swapaxes(-1, -2) if isinstance(factor, np.ndarray) and factor.ndim > 1 else factor
            changed = _from_left(turned, changed.T).T
        return changed

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the changed tensor."""
        sizes = list(shape)
        for axis, factors in ((0, self.rows), (1, self.columns)):
            for factor in factors:
                if isinstance(factor, Join):
                    sizes[axis] = factor.size
        return tuple(sizes)


def _from_left(factor: Factor, tensor: np.ndarray) -> np.ndarray:
    if isinstance(factor, Join):
        return factor.apply(tensor)
    if factor.ndim == 1:
        scaled: np.ndarray = factor.reshape(-1, *[1] * (tensor.ndim - 1)) * tensor
        return scaled
    parts = tensor.reshape(-1, factor.shape[-1], *(tensor.shape[1:] or (1,)))
    product: np.ndarray = np.matmul(factor, parts)
    return product.reshape(tensor.shape)


class Changes:
    """The changes of a whole model, and the tensors that come out.

    Attributes:
        network: of the model.
        untied: whether the head becomes a tensor of its own.
        config: settings of the config that become others.
        exact: where these changes do not keep the function, those of them that do; else None.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.untied = False
        self.config: dict[str, int] = {}
        self.exact: Changes | None = None
        self._changes: dict[str, Change] = defaultdict(Change)

    def of(self, name: str) -> Change:
        """Return the change of a tensor, to be added to."""
        return self._changes[name]

    def names(self) -> Iterator[str]:
        """Yield the names of the tensors that are changed."""
        yield from self._changes

    def source(self, name: str) -> str:
        """Return the tensor that one of the result is made from."""
        return self.network.embed if name == self.network.head and self.network.tied else name

    def read(self, original: Read, name: str) -> np.ndarray:
        """Return a tensor of the result, float64, from a reader of the original."""
        tensor = original(self.source(name))
        return self._changes[name].apply(tensor) if name in self._changes else tensor

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a tensor of the result."""
        return self._changes[name].shape(shape) if name in self._changes else shape

    def rows(self, weight: str, factor: Factor) -> None:
        """Multiply a linear map's outputs, and its bias with them."""
        self.of(weight).rows.append(factor)
        bias = self.network.bias(weight)
        if bias is not None:
            self.of(bias).rows.append(factor)

    def move_scale(self, pair: Pair, scale: np.ndarray) -> None:
        """Divide what a pair's writer writes by a scale for each channel, and multiply what its readers read.

        Args:
            pair: where.
            scale: [channels written], above 0.
        """
        self.rows(pair.writer, pair.widened(1.0 / scale))
        for reader in pair.readers:
            self.of(reader).columns.append(spread(pair, scale))

    def mix(self, pair: Pair, matrices: np.ndarray) -> None:
        """Replace the channels x between linear maps by x M, head by head.

        Args:
            pair: where.
            matrices: M, one for each head that is written or one for all, float64 [heads, n, n]; any that can be
                inverted.
        """
        turned = matrices.swapaxes(-1, -2)
        self.rows(pair.writer, turned if pair.rows is None else pair.widened(turned[0]))
        back = np.linalg.inv(turned)
        for reader in pair.readers:
            self.of(reader).columns.append(back if len(back) == 1 else np.repeat(back, pair.repeat, axis=0))


def spread(pair: Pair, channels: np.ndarray) -> np.ndarray:
    """Return for every channel that is read the value of the channel that writes it."""
    if pair.repeat == 1:
        return channels
    by_head = channels.reshape(-1, pair.block)
    return np.repeat(by_head, pair.repeat, axis=0).ravel()


def gather(pair: Pair, channels: np.ndarray, join: Callable[..., np.ndarray] = np.max) -> np.ndarray:
    """Return for every channel that is written one value for all the channels that read it: their greatest."""
    if pair.repeat == 1:
        return channels
    joined: np.ndarray = join(channels.reshape(-1, pair.repeat, pair.block), axis=1)
    return joined.ravel()
