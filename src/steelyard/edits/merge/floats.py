"""Entries of any stored type as float32, and float32 as any type of a result; the kernels are chosen here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from steelyard.weights import DTYPES

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_HALF = np.dtype(np.float16)
_SINGLE = np.dtype(np.float32)


def widen(source: np.ndarray, out: np.ndarray) -> bool:
    """Write entries as float32; tell whether all are finite.

    Args:
        source: [entries] of any float type.
        out: float32 [entries], overwritten.
    """
    from steelyard.edits.merge import _convert

    bits, kind = _bits(source)
    kernels: Mapping[Any, Callable[..., Any]] = {
        _BFLOAT16: _convert.widen_bfloat16,
        _HALF: _convert.widen_half,
        _SINGLE: _convert.widen_single,
    }
    return bool(kernels[kind](bits, out))


def add(source: np.ndarray, weight: float, fresh: bool, out: np.ndarray) -> bool:
    """Add a multiple of entries to float32 ones; False tells that some are not finite, True may not tell.

    Args:
        source: [entries] of any float type.
        weight: what they are multiplied by.
        fresh: overwrite `out` instead of adding to it.
        out: float32 [entries].
    """
    from steelyard.edits.merge import _convert

    bits, kind = _bits(source)
    kernels: Mapping[Any, Callable[..., Any]] = {
        _BFLOAT16: _convert.add_bfloat16,
        _HALF: _convert.add_half,
        _SINGLE: _convert.add_single,
    }
    return bool(kernels[kind](bits, weight, fresh, out))


def narrow(source: np.ndarray, dtype: str, out: np.ndarray) -> bool:
    """Round float32 entries half to even to a type; tell whether all are finite in it.

    Args:
        source: float32 [entries].
        dtype: safetensors type: BF16, F16, F32 or F64.
        out: [entries] of that type, overwritten.
    """
    from steelyard.edits.merge import _convert

    bits = source.view(np.uint32)
    if dtype == "BF16":
        return bool(_convert.narrow_bfloat16(bits, out.view(np.uint16)))
    if dtype == "F16":
        return bool(_convert.narrow_half(bits, out.view(np.uint16)))
    out[...] = source
    return bool(_convert.finite(bits))


def first_not_finite(source: np.ndarray) -> int | None:
    """Return the position of the first entry that is NaN or infinite; None if there is none."""
    wide = source if source.dtype == _SINGLE else source.astype(np.float32)
    places = np.flatnonzero(~np.isfinite(wide))
    return int(places[0]) if places.size else None


def numpy_type(dtype: str) -> np.dtype[Any]:
    """Return the numpy type of a safetensors type of whole bytes."""
    found = DTYPES[dtype].numpy
    assert found is not None
    return found


def _bits(source: np.ndarray) -> tuple[np.ndarray, np.dtype[Any]]:
    if source.dtype == _BFLOAT16 or source.dtype == _HALF:
        return source.view(np.uint16), source.dtype
    if source.dtype != _SINGLE:
        source = source.astype(_SINGLE)
    return source.view(np.uint32), _SINGLE
