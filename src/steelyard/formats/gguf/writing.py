"""GGUF version 3 to the byte: the header from keys and tensors, and where every tensor lies.

`GGUF`, version, number of tensors, number of keys; the keys; name, sizes, type and place of every tensor; then the
data, every tensor at a multiple of the alignment and padded to one.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from steelyard.codecs.gguf.types import NUMBERS
from steelyard.errors import UserError
from steelyard.formats.gguf.metadata import Value
from steelyard.weights import Layout, LayoutFile, StoredTensor

FILE_NAME = "model.gguf"
ALIGNMENT = 32

# GGUF's numbers of the types of values.
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True, slots=True)
class GgufTensor(StoredTensor):
    """A tensor of a GGUF file: its bytes as the writer sees them, and what they are.

    Attributes:
        kind: GGUF's type.
        sizes: of its elements, row-major.
        stack: name of the file's tensor of which this is one slice; "" where it is a tensor of its own.
        place: which slice, from 0.
        slices: how many there are.
    """

    kind: str = "F32"
    sizes: tuple[int, ...] = ()
    stack: str = ""
    place: int = 0
    slices: int = 1


def plan_gguf(
    tensors: Sequence[StoredTensor],
    keys: Mapping[str, Value],
    constants: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Layout:
    """Return the one file of these tensors and keys.

    Args:
        tensors: in the order of the file, each a `GgufTensor`.
        keys: what the file says of its model.
        constants: float32 tensors that follow from the config, by name. They lie first, and are part of the bytes
            known before any tensor is read.
    """
    infos, offsets, position, known = [], {}, 0, b""
    for name, array in constants.items():
        data = np.ascontiguousarray(array, "<f4").tobytes()
        infos.append(_info(GgufTensor(name, "F32", array.shape, "F32", array.shape), position))
        known += data + bytes(padded(len(data)) - len(data))
        position += padded(len(data))
    stacks: dict[str, tuple[GgufTensor, int]] = {}
    for tensor in tensors:
        assert isinstance(tensor, GgufTensor)
        if not tensor.stack:
            offsets[tensor.name] = position
            infos.append(_info(tensor, position))
            position += padded(tensor.nbytes)
            continue
        if tensor.stack not in stacks:
            stacks[tensor.stack] = tensor, position
            whole = GgufTensor(tensor.stack, tensor.dtype, (), tensor.kind, (tensor.slices, *tensor.sizes))
            infos.append(_info(whole, position))
            position += padded(tensor.slices * tensor.nbytes)
        first, begin = stacks[tensor.stack]
        if (tensor.kind, tensor.sizes) != (first.kind, first.sizes):
            raise UserError(
                f"{tensor.stack} holds {first.kind} and {tensor.kind}; GGUF has one type for all experts of a layer"
            )
        offsets[tensor.name] = begin + tensor.place * tensor.nbytes
    header = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys))
    header += b"".join(_text(key) + _value(value) for key, value in keys.items()) + b"".join(infos)
    header += bytes(padded(len(header)) - len(header))
    file = LayoutFile(
        FILE_NAME,
        header + known,
        {tensor.name: tensor for tensor in tensors},
        {name: len(header) + offset for name, offset in offsets.items()},
        len(header) + position,
    )
    return Layout((file,), None, file.size)


def padded(nbytes: int) -> int:
    """Return the next multiple of the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def info_bytes(tensor: GgufTensor) -> int:
    """Return the bytes of a tensor's entry in the header."""
    return len(_info(tensor, 0))


def _info(tensor: GgufTensor, offset: int) -> bytes:
    sizes = tensor.sizes[::-1]  # the fastest axis comes first
    form = f"<I{len(sizes)}QIQ"
    return _text(tensor.name) + struct.pack(form, len(sizes), *sizes, NUMBERS[tensor.kind], offset)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, list):
        first = value[0] if value else 0
        if isinstance(first, str):
            return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(_text(str(item)) for item in value)
        kind, form = (_FLOAT32, "f") if isinstance(first, float) else (_INT32, "i")
        return struct.pack(f"<IIQ{len(value)}{form}", _ARRAY, kind, len(value), *value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    return struct.pack("<If", _FLOAT32, value)
