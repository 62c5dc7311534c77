"""Reading and checking the header of a safetensors file.

Stricter than the reference reader: besides the layout it checks that every tensor's shape accounts for its
bytes and that nothing follows the data. Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.errors import UserError
from steelyard.weights.dtypes import DTYPES
from steelyard.weights.strict_json import parse_strict

MAX_HEADER_BYTES = 100_000_000
"""What the reference reader accepts; a larger length is damage or an attack."""

# The first read: one round trip to a remote store then suffices for most files.
_FIRST_READ = 1 << 16
_MAX_DIMENSIONS = 64

Bytes = bytes | memoryview | np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one stored tensor lies.

    Attributes:
        name: its name in the checkpoint.
        dtype: its safetensors element type, such as "BF16".
        shape: its sizes, row-major.
        file: the file that holds it, relative to the checkpoint.
        begin: its first byte, counted from the start of the file.
        end: one past its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Header:
    """The checked header of one safetensors file.

    Attributes:
        file: the file, relative to the checkpoint.
        nbytes: bytes before the data: the eight of the length, and the JSON with its padding.
        tensors: what the file holds, in the order of the data.
        metadata: the file's free-form strings.
    """

    file: str
    nbytes: int
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def read_header(read: Callable[[int, int], Bytes], size: int, file: str, where: str | None = None) -> Header:
    """Read and check one file's header.

    Args:
        read: returns the bytes [begin, end) of the file.
        size: the size of the file in bytes.
        file: its name relative to the checkpoint, recorded in the result.
        where: how messages call the file; `file` if absent.

    Raises:
        UserError: for anything the format forbids, naming file and tensor.
    """
    where = where or file
    if size < 8:
        raise UserError(f"{where}: {size} bytes is too short for a safetensors file; download it again")
    first = bytes(read(0, min(size, _FIRST_READ)))
    length = int.from_bytes(first[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise UserError(
            f"{where}: announces a header of {length:,} bytes, above the format's limit of "
            f"{MAX_HEADER_BYTES:,}; it is not a safetensors file or it is damaged: download it again"
        )
    if 8 + length > size:
        raise UserError(
            f"{where}: truncated inside its header: {size:,} bytes where the header alone needs "
            f"{8 + length:,}; download it again"
        )
    text = first[8 : 8 + length]
    if len(text) < length:
        text += bytes(read(len(first), 8 + length))
    return parse_header(text, size - 8 - length, file, where)


def parse_header(text: bytes, data_bytes: int, file: str, where: str | None = None) -> Header:
    """Check the JSON of a header against the number of bytes that follow it.

    Args:
        text: the header's JSON with its padding, without the length before it.
        data_bytes: bytes between the end of the header and the end of the file.
        file: as for `read_header`.
        where: as for `read_header`.

    Raises:
        UserError: for anything the format forbids, naming file and tensor.
    """
    where = where or file
    if not text.startswith(b"{"):
        raise UserError(f"{where}: its header does not start with '{{'; download it again")
    fields = parse_strict(text, f"{where}: its header")
    metadata = _metadata(fields.pop("__metadata__", {}), where)
    start = 8 + len(text)
    tensors = sorted(
        (_entry(name, value, start, file, where) for name, value in fields.items()),
        key=lambda info: (info.begin, info.end),
    )
    _check_cover(tensors, start, start + data_bytes, where)
    return Header(file, start, {info.name: info for info in tensors}, metadata)


def shown(name: str) -> str:
    """Return a tensor's name for a message: quoted, on one line, at most about 200 characters."""
    return repr(name if len(name) <= 200 else f"{name[:200]}…")


def _metadata(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise UserError(f"{where}: __metadata__ must map strings to strings; save the file again")
    return value


def _is_size(value: object) -> bool:
    # bool is a subclass of int, and JSON's true is not a number.
    return type(value) is int and 0 <= value < 2**63


def _entry(name: str, value: object, start: int, file: str, where: str) -> TensorInfo:
    def bad(reason: str) -> UserError:
        return UserError(f"{where}: tensor {shown(name)}: {reason}; download or save the file again")

    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise bad("its header entry must hold exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise bad(f"unknown dtype {str(dtype)[:40]!r} (known: {', '.join(DTYPES)})")
    if not isinstance(shape, list) or not all(map(_is_size, shape)):
        raise bad("its shape must be a list of whole numbers from zero up")
    if len(shape) > _MAX_DIMENSIONS:
        raise bad(f"{len(shape)} dimensions are more than the {_MAX_DIMENSIONS} that can be read")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise bad("its data_offsets must be two whole numbers from zero up")
    begin, end = offsets
    if begin > end:
        raise bad(f"its data ends at {end:,}, before it begins at {begin:,}")
    # numpy multiplies the other sizes even when one of them is zero.
    if math.prod(size for size in shape if size) * DTYPES[dtype].bits // 8 >= 2**63:
        raise bad(f"its shape {shape} is beyond what can be addressed")
    try:
        needed = DTYPES[dtype].nbytes(shape)
    except ValueError as error:
        raise bad(str(error)) from None
    if needed != end - begin:
        raise bad(f"{dtype} {shape} takes {needed:,} bytes but its data_offsets give it {end - begin:,}")
    return TensorInfo(name, dtype, tuple(shape), file, start + begin, start + end)


def _check_cover(tensors: list[TensorInfo], start: int, stop: int, where: str) -> None:
    """Check that the tensors, sorted, cover [start, stop) without holes or overlaps."""
    position, previous = start, "the header"
    for info in tensors:
        if info.begin != position:
            kind = "overlaps" if info.begin < position else "leaves a hole after"
            raise UserError(
                f"{where}: tensor {shown(info.name)} {kind} {previous}: it begins at byte "
                f"{info.begin - start:,} of the data instead of {position - start:,}; "
                "download or save the file again"
            )
        if info.end > stop:
            missing = max(tensor.end for tensor in tensors) - stop
            raise UserError(
                f"{where}: truncated: {missing:,} bytes are missing, the first of them in tensor "
                f"{shown(info.name)}; download it again"
            )
        position, previous = info.end, f"tensor {shown(info.name)}"
    if position != stop:
        raise UserError(
            f"{where}: {stop - position:,} bytes follow the last tensor; download or save the file again"
        )
