"""Where every unit of a space comes from: orders, and soft maps between spaces of different size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from steelyard.edits.align.symmetry import Attention, Read, Symmetry

Map = np.ndarray
"""Of one space: which unit of the other model stands at each place, int64 [n]; or the share that each of the other
model's units has in each unit, float [n, other n], whose rows are the new units."""

Maps = Mapping[str, Map]


def identity(symmetry: Symmetry) -> dict[str, Map]:
    """Return the maps that leave every unit in its place."""
    return {space: np.arange(size) for space, size in symmetry.sizes.items()}


def along(tensor: np.ndarray, dim: int, found: Map) -> np.ndarray:
    """Return a tensor whose dimension is mapped."""
    if found.ndim == 1:
        return np.take(tensor, found, axis=dim)
    moved: np.ndarray = np.moveaxis(np.tensordot(found, tensor, axes=(1, dim)), 0, dim)
    return moved


def mapped(symmetry: Symmetry, maps: Maps, name: str, tensor: np.ndarray, without: int = -1) -> np.ndarray:
    """Return a tensor of the other model in this model's order.

    Args:
        symmetry: of this model.
        maps: of every space.
        name: of the tensor.
        tensor: the other model's.
        without: a dimension that is left as it is.
    """
    for dim, spaces in enumerate(symmetry.dims.get(name, ())):
        if not spaces or dim == without:
            continue
        if len(spaces) == 1:
            tensor = along(tensor, dim, maps[spaces[0]])
            continue
        parts = []
        for space in spaces:
            part = np.take(tensor, _range(symmetry.stretch(name, dim, space)), axis=dim)
            parts.append(along(part, dim, maps[space]))
        tensor = np.concatenate(parts, axis=dim)
    return tensor


def products(symmetry: Symmetry, maps: Maps, space: str, read_a: Read, read_b: Read) -> np.ndarray:
    """Return for every two units of a space the inner product of their weights, the other dimensions mapped.

    Weights whose other side is a space that `maps` lacks are left out.

    Returns:
        float64 [n, n].
    """
    size = symmetry.sizes[space]
    total = np.zeros((size, size))
    for name, dim in symmetry.holders(space):
        others = [held for place, spaces in enumerate(symmetry.dims[name]) if place != dim for held in spaces]
        if any(held not in maps for held in others):
            continue
        ours = rows(symmetry, name, dim, space, read_a(name))
        theirs = rows(symmetry, name, dim, space, mapped(symmetry, maps, name, read_b(name), without=dim))
        total += ours @ theirs.T
    return total


def rows(symmetry: Symmetry, name: str, dim: int, space: str, tensor: np.ndarray) -> np.ndarray:
    """Return the weights of each unit of a space in one tensor, [units, other weights]."""
    part = np.moveaxis(tensor, dim, 0)[symmetry.stretch(name, dim, space)]
    return part.reshape(len(part), -1)


def squares(symmetry: Symmetry, space: str, read: Read) -> np.ndarray:
    """Return the squared length of all weights of each unit of a space, float64 [n]."""
    total = np.zeros(symmetry.sizes[space])
    for name, dim in symmetry.holders(space):
        total += (rows(symmetry, name, dim, space, read(name)).astype(np.float64) ** 2).sum(axis=1)
    return total


def distance(
    symmetry: Symmetry, maps: Maps, read_a: Read, read_b: Read, names: Iterable[str] | None = None
) -> float:
    """Return the length of the difference between one model and the other in its order."""
    total = 0.0
    for name in names or symmetry.dims:
        difference = read_a(name).astype(np.float64) - mapped(symmetry, maps, name, read_b(name))
        total += float((difference**2).sum())
    return float(total**0.5)


def attention_maps(
    attention: Attention, kv_from: np.ndarray, inner: np.ndarray, keys: np.ndarray, values: np.ndarray
) -> dict[str, Map]:
    """Return the maps of an attention's spaces.

    Args:
        attention: which.
        kv_from: the other model's key head at each place, int64 [kv_heads].
        inner: of the query heads that read it, the one at each place, int64 [kv_heads, repeat].
        keys: channel of queries and keys at each place, int64 [kv_heads, channels].
        values: channel of values at each place, int64 [kv_heads, channels].
    """
    size = attention.channels
    query_from = kv_from[:, None] * attention.repeat + inner
    return {
        attention.space("query"): (query_from[:, :, None] * size + keys[:, None, :]).ravel(),
        attention.space("key"): (kv_from[:, None] * size + keys).ravel(),
        attention.space("value"): (kv_from[:, None] * size + values).ravel(),
        attention.space("attended"): (query_from[:, :, None] * size + values[:, None, :]).ravel(),
    }


def _range(stretch: slice) -> np.ndarray:
    return np.arange(stretch.start, stretch.stop)
