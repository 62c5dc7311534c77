"""Products of two thin matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.codecs.base import Codec, Parts, Shape, check_parts, matrix, numpy_type
from steelyard.codecs.rows import cast, require_finite
from steelyard.errors import UserError

_DTYPES = ("F32", "BF16", "F16")


@dataclass(frozen=True)
class LowRankCodec(Codec):
    """w = B A with B [out, rank] and A [rank, in].

    Attributes:
        rank: at most the smaller side of the matrix.
        dtype: of both factors: "F32", "BF16" or "F16".

    Parts: lora_b [out, rank], lora_a [rank, in].
    """

    rank: int
    dtype: str = "BF16"

    name: ClassVar[str] = "low_rank"

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise UserError(f"rank is a whole number of at least 1, not {self.rank}")
        if self.dtype not in _DTYPES:
            raise UserError(f"low-rank dtype is one of {', '.join(_DTYPES)}; not {self.dtype}")

    @property
    def label(self) -> str:
        """Such as "rank 16"; factors other than bfloat16 are named."""
        return f"rank {self.rank}" + ("" if self.dtype == "BF16" else f" {self.dtype.lower()}")

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the two factors."""
        out, columns = matrix(self, shape)
        if self.rank > min(out, columns):
            raise UserError(f"rank {self.rank} is above the smaller side of {list(shape)}")
        return {"lora_b": (self.dtype, (out, self.rank)), "lora_a": (self.dtype, (self.rank, columns))}

    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Return the nearest product in the Frobenius norm (Eckart and Young 1936)."""
        require_finite(name, weight)
        return self.factor(weight, name=name)

    def factor(self, weight: np.ndarray, second_moment: np.ndarray | None = None, name: str = "weight") -> Parts:
        """Return the factors that minimise trace((W - BA) H (W - BA)^T).

        With H = L L^T the best product is U U^T W, U being the leading left singular vectors of W L, which are
        the leading eigenvectors of W H W^T. So A needs no inverse of L, and H may be singular. The factors are
        balanced, and A is fitted to B as it was rounded.

        Args:
            weight: W, float [out, in].
            second_moment: H, symmetric and not negative [in, in], the mean of x x^T over inputs x; None for the
                identity.
            name: what errors call the tensor.
        """
        shape = matrix(self, weight.shape)
        self.parts(shape)
        dtype = numpy_type(self.dtype)
        wide = weight.astype(np.float64)
        left = _leading_left(wide, second_moment, self.rank)
        # Equal norms of each column of B and row of A keep both within the range of 16-bit floats.
        norms = np.sqrt(np.linalg.norm(left.T @ wide, axis=1))
        b = cast(f"factor B of {name}", (left * norms).astype(np.float32), dtype)
        # Columns of B that are zero, as where the weight has a lower rank, leave A undetermined: least norm.
        a = np.linalg.lstsq(b.astype(np.float64), wide, rcond=None)[0]
        return {"lora_b": b, "lora_a": cast(f"factor A of {name}", a.astype(np.float32), dtype)}

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return B A as float32."""
        check_parts(self, parts, shape)
        product: np.ndarray = parts["lora_b"].astype(np.float32) @ parts["lora_a"].astype(np.float32)
        return product


def _leading_left(weight: np.ndarray, second_moment: np.ndarray | None, rank: int) -> np.ndarray:
    """Return the leading left singular vectors [out, rank] of W L where L L^T = H, in float64."""
    out, columns = weight.shape
    if out <= columns:
        weighted = weight if second_moment is None else weight @ second_moment.astype(np.float64)
        vectors = _leading(weighted @ weight.T, rank)
    else:
        product = weight if second_moment is None else weight @ _root(second_moment.astype(np.float64))
        vectors = np.linalg.qr(product @ _leading(product.T @ product, rank))[0]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(rank)])
    return vectors * np.where(signs == 0, 1.0, signs)


def _leading(gram: np.ndarray, rank: int) -> np.ndarray:
    """Return the eigenvectors [n, rank] of the largest eigenvalues of a symmetric matrix, largest first."""
    from scipy.linalg import eigh

    size = gram.shape[0]
    vectors: np.ndarray = eigh((gram + gram.T) / 2, subset_by_index=(size - rank, size - 1))[1]
    return vectors[:, ::-1]


def _root(second_moment: np.ndarray) -> np.ndarray:
    """Return L [in, in] with L L^T = H, by Cholesky where H is positive definite, else from its eigenvalues."""
    try:
        return np.linalg.cholesky(second_moment)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh((second_moment + second_moment.T) / 2)
        root: np.ndarray = vectors * np.sqrt(np.maximum(values, 0.0))
        return root
