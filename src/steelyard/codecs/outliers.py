"""Some columns kept apart as floats, the others in another codec."""

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
class OutlierCodec(Codec):
    """A matrix of which a few columns are floats and the others are encoded, side by side.

    Attributes:
        base: how the other columns are encoded, as a matrix [out, in - columns] in their order.
        columns: how many are kept apart.
        dtype: of those: "F32", "BF16" or "F16".

    Parts of [out, in]: those of `base`; outlier_columns I32 [1, columns], rising; outlier_weight [out, columns].

    Source: weight columns of outlier inputs in higher precision: Dettmers et al. 2022, LLM.int8(), arXiv
        2208.07339; Lee et al. 2023, OWQ, arXiv 2306.02272.
    """

    base: Codec
    columns: int
    dtype: str = "BF16"

    name: ClassVar[str] = "outliers"

    def __post_init__(self) -> None:
        if not isinstance(self.base, Codec) or isinstance(self.base, OutlierCodec):
            raise UserError("the base of an outliers codec is another codec")
        if isinstance(self.columns, bool) or not isinstance(self.columns, int) or self.columns < 1:
            raise UserError(f"columns kept apart are a whole number of at least 1, not {self.columns}")
        if self.dtype not in _DTYPES:
            raise UserError(f"dtype of columns kept apart is one of {', '.join(_DTYPES)}; not {self.dtype}")

    @property
    def label(self) -> str:
        """Such as "int3 g64 sym + 8 columns"; floats other than bfloat16 are named."""
        kind = "" if self.dtype == "BF16" else f" {self.dtype.lower()}"
        return f"{self.base.label} + {self.columns} columns{kind}"

    def inner(self, shape: Shape) -> tuple[int, int]:
        """Return the shape of what the base holds.

        Raises:
            UserError: if no column is left for it.
        """
        out, columns = matrix(self, shape)
        if columns <= self.columns:
            raise UserError(f"{self.label} leaves no column of {list(shape)} to its base")
        return out, columns - self.columns

    def parts(self, shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the parts of the base, which columns it lacks, and those."""
        out, _ = self.inner(shape)
        own = {"outlier_columns": ("I32", (1, self.columns)), "outlier_weight": (self.dtype, (out, self.columns))}
        return {**self.base.parts(self.inner(shape)), **own}

    def encode(self, weight: np.ndarray, name: str = "weight") -> Parts:
        """Keep the columns of the largest norm apart."""
        self.inner(weight.shape)
        require_finite(name, weight)
        # Scaled by the largest of all, so that squares neither vanish nor overflow.
        wide = weight.astype(np.float64)
        largest = float(np.abs(wide).max()) or 1.0
        return self.encode_columns(weight, self.strongest(((wide / largest) ** 2).sum(axis=0)), name)

    def strongest(self, score: np.ndarray) -> np.ndarray:
        """Return which columns have the greatest scores [in], rising, int32 [columns]."""
        return np.sort(np.argsort(-score, kind="stable")[: self.columns]).astype(np.int32)

    def encode_columns(self, weight: np.ndarray, apart: np.ndarray, name: str = "weight") -> Parts:
        """Encode a matrix with given columns kept apart, rising, int32 [columns]."""
        rest = self.others(weight.shape, apart)
        base = self.base.encode(np.ascontiguousarray(weight[:, rest]), name)
        return self.join(base, weight[:, apart].astype(np.float32), apart, name)

    def others(self, shape: Shape, apart: np.ndarray) -> np.ndarray:
        """Return the columns that the base holds, int64 [in - columns]."""
        left = np.ones(int(shape[1]), bool)
        left[apart] = False
        return np.flatnonzero(left)

    def join(
        self, base: Mapping[str, np.ndarray], kept: np.ndarray, apart: np.ndarray, name: str = "weight"
    ) -> Parts:
        """Return the parts from those of the base and the columns kept apart, float32 [out, columns]."""
        stored = cast(f"columns of {name}", np.ascontiguousarray(kept, np.float32), numpy_type(self.dtype))
        return {**base, "outlier_columns": apart.astype(np.int32).reshape(1, -1), "outlier_weight": stored}

    def decode(self, parts: Mapping[str, np.ndarray], shape: Shape) -> np.ndarray:
        """Return the base's matrix with the other columns in their places, float32."""
        check_parts(self, parts, shape)
        inner = self.inner(shape)
        apart = parts["outlier_columns"].reshape(-1)
        if apart[0] < 0 or apart[-1] >= int(shape[1]) or (np.diff(apart) <= 0).any():
            raise UserError(f"outlier_columns of {self.label} are not rising places among {int(shape[1])} columns")
        weight = np.empty((int(shape[0]), int(shape[1])), np.float32)
        weight[:, apart] = parts["outlier_weight"].astype(np.float32)
        base = {key: parts[key] for key in self.base.parts(inner)}
        weight[:, self.others(shape, apart)] = self.base.decode(base, inner)
        return weight
