"""How tensors will lie on disk, to the byte, from their names, shapes and types alone.

Headers are those of the reference writer: `__metadata__` first, tensors by descending alignment and then by
name, compact JSON padded with spaces to a multiple of eight. Shards are cut as `huggingface_hub` cuts them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from steelyard.weights.dtypes import DTYPES
from steelyard.weights.header import MAX_HEADER_BYTES

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
DEFAULT_SHARD_BYTES = 5_000_000_000
DEFAULT_METADATA: Mapping[str, str] = MappingProxyType({"format": "pt"})


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor to be stored: name, safetensors element type, sizes (row-major)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of data, without its header entry."""
        return DTYPES[self.dtype].nbytes(self.shape)


@dataclass(frozen=True)
class LayoutFile:
    """One weight file to be written.

    Attributes:
        name: its name in the folder.
        header: everything before the data: the length and the padded JSON.
        tensors: by name, in the order of the data.
        offsets: each tensor's first byte, counted from the start of the file.
        size: of the whole file in bytes.
    """

    name: str
    header: bytes
    tensors: Mapping[str, StoredTensor]
    offsets: Mapping[str, int]
    size: int


@dataclass(frozen=True)
class Layout:
    """The weight files of a folder.

    Attributes:
        files: in the order of their names.
        index: the bytes of the shards' index, None for a single file.
        total_bytes: of all weight files and the index, as they will be on disk.
    """

    files: tuple[LayoutFile, ...]
    index: bytes | None
    total_bytes: int

    @property
    def file_sizes(self) -> dict[str, int]:
        """Bytes of each weight file by its name."""
        return {file.name: file.size for file in self.files}


def plan_layout(
    tensors: Sequence[StoredTensor],
    max_shard_size: int = DEFAULT_SHARD_BYTES,
    metadata: Mapping[str, str] = DEFAULT_METADATA,
) -> Layout:
    """Return where every byte of these tensors will lie.

    Args:
        tensors: in the order in which shards are filled; names unique.
        max_shard_size: bytes of tensor data per file; a tensor above it gets a file of its own.
        metadata: strings every file carries; transformers expects {"format": "pt"}.

    Raises:
        ValueError: for a name used twice, an unknown type, or elements that do not fill whole bytes.

    Example:
        >>> layout = plan_layout([StoredTensor("w", "BF16", (2, 3))])
        >>> layout.files[0].name, layout.total_bytes, layout.index
        ('model.safetensors', 116, None)
    """
    names = {tensor.name for tensor in tensors}
    if len(names) != len(tensors) or "__metadata__" in names:
        raise ValueError("tensor names must be unique, and __metadata__ is not a tensor")
    shards = _shards(tensors, max_shard_size)
    files = tuple(
        _file(_shard_name(number, len(shards)), shard, metadata) for number, shard in enumerate(shards, 1)
    )
    index = _index(tensors, files) if len(files) > 1 else None
    return Layout(files, index, sum(file.size for file in files) + len(index or b""))


def entry_bytes_bound(tensor: StoredTensor, digits: int) -> int:
    """Return an upper bound of the bytes that a tensor's entry adds to the header.

    Args:
        tensor: the tensor.
        digits: of the largest offset in its file; both of its offsets are counted at that many.
    """
    return len(_entry(tensor, 0, 0)) - 2 + 2 * digits + 1


def _shards(tensors: Sequence[StoredTensor], limit: int) -> list[list[StoredTensor]]:
    """Cut as `huggingface_hub.split_state_dict_into_shards_factory` does.

    A tensor above the limit closes no shard: the one being filled goes on and lands after it.
    """
    shards: list[list[StoredTensor]] = []
    current: list[StoredTensor] = []
    filled = 0
    for tensor in tensors:
        if tensor.nbytes > limit:
            shards.append([tensor])
            continue
        if filled + tensor.nbytes > limit:
            shards.append(current)
            current, filled = [], 0
        current.append(tensor)
        filled += tensor.nbytes
    return [*shards, current] if current or not shards else shards


def _shard_name(number: int, count: int) -> str:
    return SINGLE_FILE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _file(name: str, tensors: Iterable[StoredTensor], metadata: Mapping[str, str]) -> LayoutFile:
    # Code points sort as UTF-8 bytes do, so this is the reference's order of names too.
    stored = sorted(tensors, key=lambda tensor: (-DTYPES[tensor.dtype].order, tensor.name))
    parts = [f'"__metadata__":{_json(dict(metadata))}'] if metadata else []
    begins: list[int] = []
    position = 0
    for tensor in stored:
        begins.append(position)
        position += tensor.nbytes
        parts.append(_entry(tensor, begins[-1], position).decode())
    text = ("{" + ",".join(parts) + "}").encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"{name}: a header of {len(text):,} bytes is above the format's limit")
    header = len(text).to_bytes(8, "little") + text
    return LayoutFile(
        name,
        header,
        {tensor.name: tensor for tensor in stored},
        {tensor.name: len(header) + begin for tensor, begin in zip(stored, begins, strict=True)},
        len(header) + position,
    )


def _entry(tensor: StoredTensor, begin: int, end: int) -> bytes:
    shape = ",".join(map(str, tensor.shape))
    fields = f'{{"dtype":"{tensor.dtype}","shape":[{shape}],"data_offsets":[{begin},{end}]}}'
    return f"{_json(tensor.name)}:{fields}".encode()


def _index(tensors: Sequence[StoredTensor], files: Iterable[LayoutFile]) -> bytes:
    file_of = {name: file.name for file in files for name in file.tensors}
    return _json(
        {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)},
            "weight_map": {tensor.name: file_of[tensor.name] for tensor in tensors},
        }
    ).encode()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
