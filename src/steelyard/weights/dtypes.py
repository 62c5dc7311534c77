"""The element types of the safetensors format, as one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    Attributes:
        name: what a safetensors header calls it, such as "BF16".
        bits: size of one element.
        numpy: the numpy type of one element, little-endian; None for the types below one byte, whose
            tensors are handled as raw bytes.
        order: the reference writer stores tensors by descending order, then by name, which leaves every
            tensor aligned to its own element.
    """

    name: str
    bits: int
    numpy: np.dtype[np.generic] | None
    order: int

    def nbytes(self, shape: Sequence[int]) -> int:
        """Return the exact number of bytes of a tensor of this type.

        Raises:
            ValueError: if the elements do not fill whole bytes.
        """
        bits = math.prod(shape) * self.bits
        if bits % 8:
            raise ValueError(f"{self.name} {list(shape)} takes {bits} bits, which is not a whole number of bytes")
        return bits // 8


def _table() -> dict[str, DType]:
    rows: tuple[tuple[str, int, Any], ...] = (
        ("BOOL", 8, "|b1"),
        ("F4", 4, None),
        ("F6_E2M3", 6, None),
        ("F6_E3M2", 6, None),
        ("U8", 8, "|u1"),
        ("I8", 8, "|i1"),
        ("F8_E5M2", 8, ml_dtypes.float8_e5m2),
        ("F8_E4M3", 8, ml_dtypes.float8_e4m3fn),
        ("F8_E8M0", 8, ml_dtypes.float8_e8m0fnu),
        ("F8_E4M3FNUZ", 8, ml_dtypes.float8_e4m3fnuz),
        ("F8_E5M2FNUZ", 8, ml_dtypes.float8_e5m2fnuz),
        ("I16", 16, "<i2"),
        ("U16", 16, "<u2"),
        ("F16", 16, "<f2"),
        ("BF16", 16, ml_dtypes.bfloat16),
        ("I32", 32, "<i4"),
        ("U32", 32, "<u4"),
        ("F32", 32, "<f4"),
        ("C64", 64, "<c8"),
        ("F64", 64, "<f8"),
        ("I64", 64, "<i8"),
        ("U64", 64, "<u8"),
    )
    return {
        name: DType(name, bits, None if kind is None else np.dtype(kind), order)
        for order, (name, bits, kind) in enumerate(rows)
    }


DTYPES: Mapping[str, DType] = MappingProxyType(_table())
"""Every element type of safetensors by its name, in the reference's order of alignment."""

_BY_NUMPY = {dtype.numpy: dtype.name for dtype in DTYPES.values() if dtype.numpy is not None}


def dtype_name(dtype: np.dtype[np.generic] | type) -> str:
    """Return the safetensors name of a numpy type.

    Raises:
        ValueError: if safetensors has no such type.

    Example:
        >>> dtype_name(np.dtype("float32"))
        'F32'
    """
    wanted = np.dtype(dtype)
    if wanted not in _BY_NUMPY:
        raise ValueError(f"safetensors has no element type for numpy's {wanted}")
    return _BY_NUMPY[wanted]
