"""Grouped integers whose groups are not runs of neighbouring columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.codecs.base import Codec, Parts, Shape, check_parts, matrix
from steelyard.codecs.integer import IntegerCodec
from steelyard.codecs.rows import require_finite
from steelyard.errors import UserError


@dataclass(frozen=True)
class PermutedCodec(Codec):
    """The columns of a matrix in another order, encoded by groups of that order.

    Attributes:
        base: the integers.

    Parts of [out, in]: those of `base`, and column_order I32 [1, in]: column i of what `base` holds is column
    column_order[i] of the matrix. This is what GPTQ's `g_idx` says of models quantized in activation order.
    """

    base: IntegerCodec

    name: ClassVar[str] = "permuted"

    def __post_init__(self) -> None:
        if not isinstance(self.base, IntegerCodec) or self.base.group_size is None:
            raise UserError("the base of a permuted codec is an integer codec with groups")

    @property
    def label(self) -> str:
        """Such as "int4 g128 asym permuted"."""
        return f"{self.base.label} permuted"

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the parts of the base and the order."""
        _, columns = matrix(self, shape)
        return {**self.base.parts(shape), "column_order": ("I32", (1, columns))}

    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Put columns of like size under one scale: in the order of their falling norms."""
        matrix(self, weight.shape)
        require_finite(name, weight)
        wide = np.ascontiguousarray(weight, np.float32)
        order = np.argsort(-np.abs(wide).max(axis=0), kind="stable").astype(np.int32)
        return {**self.base.encode(wide[:, order], name), "column_order": order.reshape(1, -1)}

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return the base's matrix with its columns where they belong."""
        check_parts(self, parts, shape)
        _, columns = matrix(self, shape)
        order = parts["column_order"].reshape(-1)
        if not np.array_equal(np.sort(order), np.arange(columns)):
            raise UserError(f"column_order of {self.label} does not name every column once")
        inner = {key: part for key, part in parts.items() if key != "column_order"}
        weight = np.empty((int(shape[0]), columns), np.float32)
        weight[:, order] = self.base.decode(inner, shape)
        return weight
