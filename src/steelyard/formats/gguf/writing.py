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
from steelyard.formats.gguf.metadata import Int32, Uint16, Value
from steelyard.weights import Layout, LayoutFile, StoredTensor

FILE_NAME = "model.gguf"
ALIGNMENT = 32

# GGUF's numbers of the types of values.
_UINT8, _UINT16, _UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 0, 2, 4, 5, 6, 7, 8, 9


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
    max_shard_size: int | None = None,
) -> Layout:
    """Return the files of these tensors and keys.

    They are cut as llama.cpp's `llama-gguf-split --split-max-size` cuts: before the tensor that would take a file's
    data above the size. The first file has all keys, and each says which of how many it is.

    Args:
        tensors: in the order of the files, each a `GgufTensor`.
        keys: what the file says of its model.
        constants: float32 tensors that follow from the config, by name. They lie first, and are part of the bytes
            known before any tensor is read.
        max_shard_size: bytes of data above which a new file is begun; None for one file.

    Raises:
        UserError: if experts that are one tensor of the file have more than one type.
    """
    runs: list[list[_Run]] = [[]]
    for run in _runs(tensors, constants):
        if runs[-1] and max_shard_size is not None and sum(map(_room, (*runs[-1], run))) > max_shard_size:
            runs.append([])
        runs[-1].append(run)
    files: tuple[LayoutFile, ...]
    if len(runs) == 1:
        files = (_file(FILE_NAME, runs[0], keys),)
    else:
        total = Int32(sum(map(len, runs)))
        files = tuple(
            _file(
                part_name(number, len(runs)),
                part,
                {
                    **(keys if number == 0 else {}),
                    "split.no": Uint16(number),
                    "split.count": Uint16(len(runs)),
                    "split.tensors.count": total,
                },
            )
            for number, part in enumerate(runs)
        )
    return Layout(files, None, sum(file.size for file in files))


def part_name(number: int, count: int) -> str:
    """Return the name of a file of a split, which llama.cpp finds the others by; `number` counts from 0."""
    stem, _, suffix = FILE_NAME.rpartition(".")
    return f"{stem}-{number + 1:05d}-of-{count:05d}.{suffix}"


@dataclass
class _Run:
    """One tensor of a file.

    Attributes:
        whole: what its header says.
        parts: what the writer writes for it: itself, the slices of a stack in any order, or nothing of a constant.
        data: of a constant.
    """

    whole: GgufTensor
    parts: list[GgufTensor]
    data: bytes = b""


def _runs(tensors: Sequence[StoredTensor], constants: Mapping[str, np.ndarray]) -> list[_Run]:
    runs = [
        _Run(
            GgufTensor(name, "F32", array.shape, "F32", array.shape),
            [],
            np.ascontiguousarray(array, "<f4").tobytes(),
        )
        for name, array in constants.items()
    ]
    stacks: dict[str, _Run] = {}
    for tensor in tensors:
        assert isinstance(tensor, GgufTensor)
        if not tensor.stack:
            runs.append(_Run(tensor, [tensor]))
            continue
        if tensor.stack not in stacks:
            whole = GgufTensor(tensor.stack, tensor.dtype, (), tensor.kind, (tensor.slices, *tensor.sizes))
            stacks[tensor.stack] = _Run(whole, [])
            runs.append(stacks[tensor.stack])
        run = stacks[tensor.stack]
        run.parts.append(tensor)
        first = run.parts[0]
        if (tensor.kind, tensor.sizes) != (first.kind, first.sizes):
            raise UserError(
                f"{tensor.stack} holds {first.kind} and {tensor.kind}; GGUF has one type for all experts of a layer"
            )
    return runs


def _room(run: _Run) -> int:
    """Return the bytes that a tensor's data take in a file."""
    return padded(len(run.data) or run.parts[0].slices * run.parts[0].nbytes)


def _file(name: str, runs: Sequence[_Run], keys: Mapping[str, Value]) -> LayoutFile:
    infos: list[bytes] = []
    offsets: dict[str, int] = {}
    position = 0
    for run in runs:
        infos.append(_info(run.whole, position))
        offsets |= {part.name: position + part.place * part.nbytes for part in run.parts}
        position += _room(run)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(keys))
    header += b"".join(_text(key) + _value(value) for key, value in keys.items()) + b"".join(infos)
    header += bytes(padded(len(header)) - len(header))
    known = b"".join(run.data + bytes(padded(len(run.data)) - len(run.data)) for run in runs)
    return LayoutFile(
        name,
        header + known,
        {part.name: part for run in runs for part in run.parts},
        {name: len(header) + offset for name, offset in offsets.items()},
        len(header) + position,
    )


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
    if isinstance(value, bytes):
        return struct.pack("<IIQ", _ARRAY, _UINT8, len(value)) + value
    if isinstance(value, Uint16):
        return struct.pack("<IH", _UINT16, value)
    if isinstance(value, Int32):
        return struct.pack("<Ii", _INT32, value)
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
