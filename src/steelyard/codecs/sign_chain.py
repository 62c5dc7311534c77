"""Chains of signs times low-rank magnitudes, each block made for what the blocks before it leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from steelyard.codecs.base import Parts, Shape, check_parts, matrix, numpy_type
from steelyard.codecs.nested import NestedCodec
from steelyard.codecs.rows import cast, require_finite
from steelyard.errors import UserError
from steelyard.parallel import map_threads
from steelyard.seeds import generator

_DTYPES = ("F16", "BF16", "F32")
_ROWS = 256

# Up to this smaller side singular vectors come from all eigenvalues, above it from repeated products.
_EXACT = 1024
_SPARE = 16
_PRODUCTS = 4

# Costs are estimates: none counts as less than this share of their mean.
_LEAST = 1e-3


@dataclass(frozen=True)
class SignChainCodec(NestedCodec):
    """w = sum over blocks of S (U V), element by element: signs of one bit, times a product of thin matrices.

    Attributes:
        blocks: in the chain; the first few of them are a coarser version of the matrix.
        rank: of each block's magnitudes; at most the smaller side of the matrix.
        dtype: of the thin matrices: "F16", "BF16" or "F32".

    Parts of [out, in], for each block i from 1: sign{i} U8 [out, ceil(in/8)], 1 for plus, the first column in the
    highest bit; u{i}, dtype [out, rank]; v{i}, dtype [rank, in].

    Source: Wang et al. 2025, BitStack, arXiv 2410.23918, section 3.1. The scales of the
    activations are folded into V, which costs no byte and needs no layer before to take them back; and a block is
    made for what the earlier ones leave as they are stored, where the authors' code forgets their rounding.

    Example:
        >>> SignChainCodec(1, 16).nbytes((4096, 4096)), SignChainCodec(1, 16).nbytes((1024, 4096))
        (2359296, 688128)
    """

    blocks: int = 8
    rank: int = 16
    dtype: str = "F16"

    name: ClassVar[str] = "sign_chain"

    def __post_init__(self) -> None:
        for field, value in (("blocks", self.blocks), ("rank", self.rank)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{field} is a whole number of at least 1, not {value}")
        if self.dtype not in _DTYPES:
            raise UserError(f"dtype is one of {', '.join(_DTYPES)}; not {self.dtype}")

    @property
    def label(self) -> str:
        """Such as "8 signs k16"."""
        count = "1 sign" if self.blocks == 1 else f"{self.blocks} signs"
        return f"{count} k{self.rank}" + ("" if self.dtype == "F16" else f" {self.dtype.lower()}")

    @property
    def level(self) -> int:
        """How many blocks."""
        return self.blocks

    @property
    def lowest(self) -> int:
        """One block."""
        return 1

    def at(self, level: int) -> Self:
        """Return the codec of another number of blocks."""
        return replace(self, blocks=level)

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return signs and both thin matrices, block by block."""
        out, columns = matrix(self, shape)
        if self.rank > min(out, columns):
            raise UserError(f"rank {self.rank} is above the smaller side of {list(shape)}")
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        for block in range(1, self.blocks + 1):
            found[f"sign{block}"] = ("U8", (out, -(-columns // 8)))
            found[f"u{block}"] = (self.dtype, (out, self.rank))
            found[f"v{block}"] = (self.dtype, (self.rank, columns))
        return found

    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Make a chain with all weights alike, as the paper's without activations."""
        return self.chain(weight, name=name)

    def chain(
        self,
        weight: np.ndarray,
        importance: np.ndarray | None = None,
        row_weight: np.ndarray | None = None,
        name: str = "weight",
    ) -> Parts:
        """Return blocks that each lose the least weighted squares of what is left, given its signs.

        Args:
            weight: float [out, in].
            importance: float [in], what a squared error costs at each column; None for one.
            row_weight: float [out], what one costs in each row; None for one.
            name: what errors call the tensor.

        Raises:
            UserError: if a value is not finite or a factor is beyond `dtype`.
        """
        shape = matrix(self, weight.shape)
        self.parts(shape)
        require_finite(name, weight)
        stretch, lines = _stretch(importance, shape[1]), _stretch(row_weight, shape[0])[:, None]
        left = weight.astype(np.float64)
        dtype = numpy_type(self.dtype)
        parts: Parts = {}
        for block in range(1, self.blocks + 1):
            u, v = _product(np.abs(left * lines * stretch), self.rank, name)
            u, v = u / lines, v / stretch
            # Equal norms of each column of U and row of V keep both within the range of 16-bit floats.
            size = np.sqrt(np.linalg.norm(u, axis=0) / np.maximum(np.linalg.norm(v, axis=1), 1e-300))
            size[size == 0] = 1.0
            stored_u = cast(f"u{block} of {name}", (u / size).astype(np.float32), dtype)
            stored_v = cast(f"v{block} of {name}", (v * size[:, None]).astype(np.float32), dtype)
            positive = left >= 0
            parts |= {f"sign{block}": np.packbits(positive, axis=1), f"u{block}": stored_u, f"v{block}": stored_v}
            magnitude = stored_u.astype(np.float64) @ stored_v.astype(np.float64)
            left = left - np.where(positive, magnitude, -magnitude)
        return parts

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return the sum of the blocks in float32."""
        check_parts(self, parts, shape)
        out, columns = matrix(self, shape)
        weight = np.zeros((out, columns), np.float32)
        factors = [
            (parts[f"sign{block}"], *(parts[f"{side}{block}"].astype(np.float32) for side in "uv"))
            for block in range(1, self.blocks + 1)
        ]

        def run(begin: int) -> None:
            from steelyard.codecs import _nested

            rows = slice(begin, begin + _ROWS)
            for sign, u, v in factors:
                _nested.add_signed(np.ascontiguousarray(sign[rows]), u[rows] @ v, weight[rows])

        map_threads(run, range(0, out, _ROWS))
        return weight


def _stretch(importance: np.ndarray | None, count: int) -> np.ndarray:
    """Return the square roots of what errors cost, float64 [count], their geometric mean 1 and none near 0."""
    if importance is None:
        return np.ones(count)
    each = np.asarray(importance, np.float64)
    mean = float(each.mean())
    if mean <= 0:
        return np.ones(count)
    root = np.sqrt(np.maximum(each, _LEAST * mean))
    result: np.ndarray = root / np.exp(np.log(root).mean())
    return result


def _product(target: np.ndarray, rank: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return U [out, rank] and V [rank, in] whose product is nearest to a matrix (Eckart and Young 1936)."""
    out, columns = target.shape
    if min(out, columns) <= _EXACT:
        from scipy.linalg import eigh

        size = min(out, columns)
        gram = target @ target.T if out <= columns else target.T @ target
        vectors = eigh(gram, subset_by_index=(size - rank, size - 1))[1][:, ::-1]
        basis = vectors if out <= columns else np.linalg.qr(target @ vectors)[0]
    else:
        draws = generator(0, f"subspace of {name}").standard_normal((columns, min(rank + _SPARE, out, columns)))
        basis = np.linalg.qr(target @ draws)[0]
        for _ in range(_PRODUCTS):
            basis = np.linalg.qr(target @ np.linalg.qr(target.T @ basis)[0])[0]
        inner = basis.T @ target
        basis = basis @ np.linalg.eigh(inner @ inner.T)[1][:, ::-1][:, :rank]
    signs = np.where(basis.sum(axis=0) < 0, -1.0, 1.0)
    basis = basis * signs
    return basis, basis.T @ target
