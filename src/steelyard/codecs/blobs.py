"""The parts of one encoded tensor as a single run of bytes, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from steelyard.codecs.base import Codec, Parts, Shape, check_parts, numpy_type
from steelyard.errors import UserError
from steelyard.weights.dtypes import DTYPES


def blob(parts: Mapping[str, np.ndarray], codec: Codec, shape: Shape) -> np.ndarray:
    """Return the bytes of the parts as uint8 [nbytes], in the order of `codec.parts(shape)`, without padding.

    Raises:
        UserError: if the parts are not those of this codec and shape.
    """
    check_parts(codec, parts, shape)
    pieces = [np.ascontiguousarray(parts[key]).reshape(-1).view(np.uint8) for key in codec.parts(shape)]
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint8)


def split(data: np.ndarray, codec: Codec, shape: Shape) -> Parts:
    """Undo `blob`; the parts are views of `data` wherever their alignment allows.

    Raises:
        UserError: if `data` is not as long as such a tensor is.
    """
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    if flat.size != codec.nbytes(shape):
        raise UserError(f"{codec.label} of {list(shape)} takes {codec.nbytes(shape)} bytes, not {flat.size}")
    parts: Parts = {}
    begin = 0
    for key, (dtype, part_shape) in codec.parts(shape).items():
        end = begin + DTYPES[dtype].nbytes(part_shape)
        piece = flat[begin:end]
        if piece.ctypes.data % max(1, numpy_type(dtype).itemsize):
            piece = piece.copy()
        parts[key] = piece.view(numpy_type(dtype)).reshape(part_shape)
        begin = end
    return parts
