"""The numpy face of the native kernels. They are imported at the first call, for that imports numba."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from steelyard.errors import WeightError

SCALE_KINDS = {"BF16": 0, "F16": 1, "F32": 2}
"""How kernels number the float types; the same numbers as `_kernels.BF16`, `F16`, `F32`."""

# Kind, type of the bits, and the bits of infinity for each float type the kernels read.
_FLOATS: dict[Any, tuple[int, Any, int]] = {
    np.dtype(ml_dtypes.bfloat16): (0, np.uint16, 0x7F80),
    np.dtype(np.float16): (1, np.uint16, 0x7C00),
    np.dtype(np.float32): (2, np.uint32, 0x7F800000),
}


def float_bits(weight: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Return (bits, kind, bits of infinity) of a float array: a view where it is bfloat16, float16 or float32.

    Other float types, and arrays that are strided or not aligned, are copied; all but the three become float32.
    """
    if weight.dtype not in _FLOATS:
        weight = weight.astype(np.float32)
    kind, integer, infinity = _FLOATS[weight.dtype]
    return np.require(weight, requirements=["C", "A"]).view(integer), kind, infinity


def words(columns: int, bits: int) -> int:
    """Return how many 32-bit words hold a row of `columns` codes of `bits` bits."""
    return (columns * bits + 31) // 32


def require_finite(name: str, weight: np.ndarray, first_row: int = 0) -> None:
    """Refuse NaN and infinity, which no codec of few bits can keep.

    Args:
        name: of the tensor.
        weight: float array of any shape.
        first_row: index in the whole tensor of the first row of `weight`.

    Raises:
        UserError: naming the tensor, the value and the first place.
    """
    if (place := _first_not_finite(weight)) is not None:
        at = [place[0] + first_row, *place[1:]] if place else []
        value = float(weight[place])
        raise WeightError(f"{name} holds {value} at {at}; repair the checkpoint or leave it as it is")


def cast(name: str, weight: np.ndarray, dtype: np.dtype[Any], first_row: int = 0) -> np.ndarray:
    """Return a finite array as another float type, rounded half to even; contiguous, and a view where it can be.

    Raises:
        UserError: if a value lies beyond the type, naming the tensor, the value and the first place.
    """
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(weight.astype(dtype, copy=False)).reshape(weight.shape)
    if dtype.itemsize < weight.dtype.itemsize or dtype == np.float16:
        place = _first_not_finite(result)
        if place is not None:
            at = [place[0] + first_row, *place[1:]] if place else []
            raise WeightError(
                f"{name} holds {float(weight[place]):g} at {at}, beyond {dtype.name}; store it in a wider type"
            )
    return result


def _first_not_finite(weight: np.ndarray) -> tuple[int, ...] | None:
    from steelyard.codecs import _kernels

    bits, _, infinity = float_bits(weight)
    integer = bits.dtype.type
    index = int(_kernels.first_not_finite(bits.reshape(-1), integer(np.iinfo(integer).max >> 1), integer(infinity)))
    return None if index < 0 else tuple(int(axis) for axis in np.unravel_index(index, weight.shape))


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack int8 [rows, columns] in [-2**(bits-1), 2**(bits-1)) densely into int32 [rows, words].

    The value stored is code + 2**(bits-1); element i of a row takes its bits [i*bits, (i+1)*bits), least
    significant first, as compressed-tensors' pack-quantized format has it.
    """
    from steelyard.codecs import _kernels

    packed = np.empty((codes.shape[0], words(codes.shape[1], bits)), np.int32)
    _kernels.pack(np.ascontiguousarray(codes, np.int8), bits, packed)
    return packed


def unpack(packed: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """Undo `pack`: int8 [rows, columns]."""
    from steelyard.codecs import _kernels

    codes = np.empty((packed.shape[0], columns), np.int8)
    _kernels.unpack(aligned(packed), bits, codes)
    return codes


def aligned(packed: np.ndarray) -> np.ndarray:
    """Return int32 rows as the kernels read them."""
    return np.require(packed, np.int32, ["C", "A"])


def compile_kernels() -> None:
    """Compile all kernels into numba's cache, so that no later process has to: some ten seconds, once."""
    from steelyard.codecs import _kernels

    for kernel in (
        _kernels.first_not_finite,
        _kernels.pack,
        _kernels.unpack,
        _kernels.encode,
        _kernels.decode,
        _kernels.residual,
        _kernels.quantize,
    ):
        kernel.prepare()
