"""Blocks of rows and columns that share one scale."""

from __future__ import annotations

import numpy as np

from steelyard.errors import UserError


def check_block(rows: int | None, columns: int | None) -> None:
    """Refuse blocks without an element.

    Raises:
        UserError: naming the side.
    """
    for label, side in (("rows", rows), ("columns", columns)):
        if side is not None and (isinstance(side, bool) or not isinstance(side, int) or side < 1):
            raise UserError(f"{label} of a block is at least 1, or null for all; not {side}")


def block_label(rows: int | None, columns: int | None) -> str:
    """Return "tensor", "row", or such as "128x128"."""
    if columns is None and rows in (1, None):
        return "row" if rows else "tensor"
    return f"{rows or 'all'}x{columns or 'all'}"


def block_counts(shape: tuple[int, int], rows: int | None, columns: int | None) -> tuple[int, int]:
    """Return how many blocks lie down and across a matrix; the last ones may be smaller."""
    down, across = (
        1 if side is None else -(-size // side) for size, side in zip(shape, (rows, columns), strict=True)
    )
    return down, across


def spread(scale: np.ndarray, shape: tuple[int, ...], rows: int | None, columns: int | None) -> np.ndarray:
    """Return the scale of every element, or what broadcasts to it, from that of every block."""
    if columns is not None:
        scale = np.repeat(scale, columns, axis=1)[:, : shape[1]]
    return scale if rows in (1, None) else np.repeat(scale, rows, axis=0)[: shape[0]]


def block_absmax(weight: np.ndarray, rows: int | None, columns: int | None) -> np.ndarray:
    """Return the largest magnitude of each block."""
    return _by_blocks(_by_blocks(np.abs(weight), columns, 1), rows, 0)


def _by_blocks(values: np.ndarray, side: int | None, axis: int) -> np.ndarray:
    starts = np.arange(0, values.shape[axis], side or values.shape[axis])
    return np.maximum.reduceat(values, starts, axis=axis)
