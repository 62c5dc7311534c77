"""What the readers of several layouts share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from steelyard.codecs import IntegerCodec, PermutedCodec, pack
from steelyard.errors import UserError
from steelyard.spec.registry import find_architecture
from steelyard.weights import Checkpoint


def modules_with(checkpoint: Checkpoint, part: str) -> Iterator[str]:
    """Yield the modules that store a part of that name."""
    for name in checkpoint.names:
        module, _, ending = name.rpartition(".")
        if ending == part:
            yield module


def present(checkpoint: Checkpoint, module: str, parts: tuple[str, ...]) -> dict[str, str]:
    """Return the stored names of those parts that a module has."""
    return {part: f"{module}.{part}" for part in parts if f"{module}.{part}" in checkpoint}


def matrix(checkpoint: Checkpoint, name: str, shape: Any) -> tuple[int, int]:
    """Return a shape as (out, in).

    Raises:
        UserError: if it is not that of a matrix with elements.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise UserError(f"{checkpoint.location}: {name} tells of a tensor {list(shape)}, which is no matrix")
    return int(shape[0]), int(shape[1])


def is_transposed(config: Mapping[str, Any], name: str) -> bool:
    """Tell whether the model has a matrix as [in, out], where linear layers that replace its own have [out, in]."""
    architecture = find_architecture(config)
    match = None if architecture is None else architecture.match(name)
    return match is not None and bool(match.rule.transposed)


def group_size(columns: int, groups: int, declared: Any, where: str) -> int | None:
    """Return the columns under one scale, None for all, from the number of scales.

    Raises:
        UserError: if no even grouping has that many.
    """
    if groups == 1:
        return None
    if isinstance(declared, int) and declared > 0 and -(-columns // declared) == groups:
        return declared
    if columns % groups == 0:
        return columns // groups
    raise UserError(f"{where}: {groups} groups of scales do not fit {columns} columns; download the weights again")


def integer_parts(
    codec: IntegerCodec, codes: np.ndarray, zero: np.ndarray, scale: np.ndarray, where: str
) -> dict[str, np.ndarray]:
    """Return the parts of codes [out, in], zero points [out, groups] and scales [out, groups].

    Raises:
        UserError: if zero points are not those of a symmetric codec though the config says so.
    """
    parts = {"weight_packed": pack(codes, codec.bits), "weight_scale": np.ascontiguousarray(scale)}
    if not codec.symmetric:
        packed = pack(np.ascontiguousarray(zero.T), codec.bits)
        return {**parts, "weight_zero_point": np.ascontiguousarray(packed.T)}
    if zero.any():
        raise UserError(
            f'{where}: the config says "sym", but zero points are not in the middle; correct the config'
        )
    return parts


def order_of(groups: np.ndarray, size: int | None, where: str) -> np.ndarray | None:
    """Return the columns in the order of their groups, None where that is their own order.

    Args:
        groups: the group of each column.
        size: columns in each group.
        where: for messages.

    Raises:
        UserError: if a group has another number of columns.
    """
    even = np.arange(len(groups)) // (size or len(groups))
    if np.array_equal(groups, even):
        return None
    order = np.argsort(groups, kind="stable")
    if not np.array_equal(groups[order], even):
        raise UserError(f"{where}: its columns do not fill groups of {size}; download the weights again")
    return order.astype(np.int32)


def permuted(base: IntegerCodec, order: np.ndarray | None) -> IntegerCodec | PermutedCodec:
    """Return the codec of columns in an order of their own, if they have one."""
    return base if order is None else PermutedCodec(base)
