"""The header of a GGUF file: its keys, and name, shape, type and place of every tensor. No data are read.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; blocks of the types: ggml's `ggml-common.h`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from steelyard.codecs.gguf.types import TYPES, BlockType
from steelyard.errors import UserError
from steelyard.weights.stores import Store

SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_PIECE = 1 << 16
_MOST_BYTES = 1 << 28
_MOST_ITEMS = 1 << 24


_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GgufInfo:
    """One tensor of a file.

    Attributes:
        name: as the file has it.
        shape: row-major, as numpy has it: the reverse of the file's order.
        kind: its type.
        offset: of its first byte, counted from the start of the data.
    """

    name: str
    shape: tuple[int, ...]
    kind: BlockType
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) // self.kind.numbers * self.kind.nbytes


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        nbytes: bytes before the data.
        metadata: its keys; arrays (vocabularies) are counted, not kept.
        tensors: where and how each tensor is stored, by name.
    """

    nbytes: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufInfo]


def read_gguf(store: Store, file: str) -> GgufHeader:
    """Read the header of a GGUF file of a store.

    Raises:
        UserError: if it is no GGUF file, is damaged, or uses types nobody has described.
    """
    where = f"{store.location}/{file}"
    size = store.size(file)

    def read(begin: int, end: int) -> bytes:
        return bytes(store.read(file, begin, end))

    return _Reader(read, size, where).header()


class _Reader:
    """Reads forward through the header, a piece at a time."""

    def __init__(self, read: Callable[[int, int], bytes], size: int, where: str) -> None:
        self._read = read
        self._size = size
        self._where = where
        self._piece = b""
        self._begin = 0
        self._position = 0

    def header(self) -> GgufHeader:
        if self._take(4) != _MAGIC:
            raise UserError(f"{self._where} does not begin with GGUF; it is no GGUF file or it is damaged")
        version = self._number("<I")
        if version not in (2, 3):
            raise UserError(f"{self._where}: GGUF version {version}; versions 2 and 3 can be read")
        tensors, keys = self._count("tensors"), self._count("keys")
        metadata = {}
        for _ in range(keys):
            key = self._text()
            metadata[key] = self._value(self._number("<I"))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment > 1 << 20:
            raise self._bad(f"general.alignment is {alignment!r}")
        found: dict[str, GgufInfo] = {}
        last = 0
        for _ in range(tensors):
            info = self._tensor(alignment)
            if info.name in found:
                raise self._bad(f"tensor {info.name!r} is named twice")
            found[info.name] = info
            last = max(last, info.offset + info.nbytes)
        start = -(-self._position // alignment) * alignment
        if start + last > self._size:
            raise UserError(
                f"{self._where}: truncated: {start + last - self._size:,} bytes are missing; download it again"
            )
        return GgufHeader(start, metadata, found)

    def _tensor(self, alignment: int) -> GgufInfo:
        name = self._text()
        dimensions = self._number("<I")
        if dimensions > 8:
            raise self._bad(f"tensor {name[:200]!r} has {dimensions} dimensions")
        # The fastest axis comes first in the file.
        shape = tuple(self._number("<Q") for _ in range(dimensions))[::-1]
        number, offset = self._number("<I"), self._number("<Q")
        kind = TYPES.get(number)
        if kind is None:
            raise self._bad(f"tensor {name[:200]!r} has the unknown type {number}")
        elements = math.prod(shape)
        if (shape[-1] if shape else 1) % kind.numbers or offset % alignment or elements >= 1 << 62:
            raise self._bad(f"tensor {name[:200]!r} of {kind.name} has shape {list(shape)} at byte {offset}")
        return GgufInfo(name, shape, kind, offset)

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            raise self._bad(f"a key has the unknown type {kind}")
        inner, count = self._number("<I"), self._count("items of an array")
        if inner in _SCALARS and count > 1024:
            self._take(struct.calcsize(_SCALARS[inner]) * count)
            return count
        if inner == _STRING:
            for _ in range(count):
                self._take(self._number("<Q"))
            return count
        return [self._value(inner) for _ in range(count)]

    def _count(self, what: str) -> int:
        count: int = self._number("<Q")
        if count > _MOST_ITEMS:
            raise self._bad(f"it announces {count:,} {what}")
        return count

    def _text(self) -> str:
        return self._take(self._number("<Q")).decode("utf-8", "replace")

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if end > self._size or end > _MOST_BYTES:
            raise self._bad("its header runs past its end" if end > self._size else "its header is above 256 MiB")
        if end > self._begin + len(self._piece):
            self._begin = self._position
            self._piece = self._read(self._begin, min(self._size, max(end, self._begin + _PIECE)))
        taken = self._piece[self._position - self._begin : end - self._begin]
        self._position = end
        return taken

    def _bad(self, reason: str) -> UserError:
        return UserError(f"{self._where}: {reason}; it is damaged: download it again")
