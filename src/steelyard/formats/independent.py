"""A second reader of written folders, which shares no code with the writer, the first reader or the codecs.

It knows the layouts from their specifications alone: headers by `struct` and `json`, fields of bits by shifts of
numpy, `(code - zero) * scale`. From the codecs it takes their numbers only: bits, group size, rank.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from steelyard.codecs import (
    Codec,
    DenseCodec,
    EntropyCodec,
    GridCodec,
    IntegerCodec,
    LowRankCodec,
    OutlierCodec,
    PermutedCodec,
    RotatedCodec,
    SumCodec,
)
from steelyard.errors import VerificationError
from steelyard.formats import independent_entropy, independent_floats, independent_nested

_NUMPY: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "U16": np.uint16,
    "I32": np.int32,
    "U32": np.uint32,
    "I64": np.int64,
    "U64": np.uint64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}

Rows = Callable[[int, int], np.ndarray]
"""Returns rows [start, stop) of a matrix as float32, in an array of their own."""


@dataclass(frozen=True)
class Stored:
    """A tensor on disk: its file, type, shape, and bytes [begin, end) of that file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class DiskFolder:
    """The tensors of a folder as they lie on disk.

    Args:
        folder: with config.json and `model.safetensors`, or shards and their index.

    Raises:
        VerificationError: naming the file that is not as the format has it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        self.tensors: dict[str, Stored] = {}
        files = sorted(path.name for path in folder.glob("*.safetensors"))
        self._maps = {file: np.memmap(folder / file, np.uint8, "r") for file in files}
        for file in files:
            self._read(file)
        index = folder / "model.safetensors.index.json"
        if files != ["model.safetensors"] or index.exists():
            listed = json.loads(index.read_bytes())["weight_map"] if index.exists() else {}
            if listed != {name: stored.file for name, stored in self.tensors.items()}:
                raise VerificationError(f"{index} does not list the tensors the shards hold")

    def _read(self, file: str) -> None:
        data = self._maps[file]
        (length,) = struct.unpack("<Q", data[:8].tobytes())
        header = json.loads(data[8 : 8 + length].tobytes())
        header.pop("__metadata__", None)
        position = 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            shape = tuple(entry["shape"])
            kind = _NUMPY.get(entry["dtype"])
            size = None if kind is None else math.prod(shape) * np.dtype(kind).itemsize
            if name in self.tensors or begin != position or size not in (None, end - begin):
                raise VerificationError(f"{self.folder / file}: tensor {name} is not where its header says")
            self.tensors[name] = Stored(file, entry["dtype"], shape, 8 + length + begin, 8 + length + end)
            position = end
        if 8 + length + position != len(data):
            raise VerificationError(f"{self.folder / file} does not end with its last tensor")

    def bytes(self, name: str) -> np.ndarray:
        """Return a tensor's bytes."""
        stored = self.tensors[name]
        return self._maps[stored.file][stored.begin : stored.end]

    def array(self, name: str) -> np.ndarray:
        """Return a tensor."""
        stored = self.tensors[name]
        return typed(self.bytes(name), stored.dtype, stored.shape)


def typed(data: np.ndarray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return bytes as an array."""
    return np.frombuffer(data, _NUMPY[dtype]).reshape(shape)


def float_rows(array: np.ndarray) -> Rows:
    """Return the rows of a plain matrix, or of a vector as one column."""
    flat = array.reshape(array.shape[0] if array.ndim else 1, -1)
    return lambda start, stop: np.array(to_float32(flat[start:stop]))


def to_float32(array: np.ndarray) -> np.ndarray:
    """Return floats as float32; bfloat16 by its bits, which is exact and fast."""
    if array.dtype == ml_dtypes.bfloat16:
        wide = np.ascontiguousarray(array).view(np.uint16).astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    return array.astype(np.float32, copy=False)


def blob_rows(data: np.ndarray, codec: Codec, shape: tuple[int, int]) -> Rows:
    """Return the decoded rows of a blob of the native format: its parts one after the other, without padding."""
    parts, used = _blob_parts(data, codec, shape)
    if used != len(data):
        raise VerificationError(f"{len(data)} bytes where {codec.label} of {list(shape)} takes {used}")
    return decoded_rows(codec, shape, parts)


def _blob_parts(data: np.ndarray, codec: Codec, shape: tuple[int, int]) -> tuple[dict[str, np.ndarray], int]:
    out, columns = shape
    if isinstance(codec, OutlierCodec):
        return _beside_outliers(data, codec, shape)
    if isinstance(codec, RotatedCodec):
        inner, begin = _blob_parts(data, codec.base, shape)
        end = begin + columns * np.dtype(_NUMPY[codec.dtype]).itemsize
        return {**inner, "column_scale": typed(data[begin:end], codec.dtype, (1, columns))}, end
    layout = list(independent_floats.layout_of(codec, shape) or independent_nested.layout_of(codec, shape) or ())
    base = codec.base if isinstance(codec, SumCodec | PermutedCodec | EntropyCodec) else codec
    if isinstance(base, GridCodec):
        layout += [("weight", "I8", shape), ("row_exponent", "U8", (out, 1))]
        layout += [("column_exponent", "U8", (1, columns)), ("weight_scale", "F32", (1, 1))]
    if isinstance(base, IntegerCodec):
        groups = 1 if base.group_size is None else -(-columns // base.group_size)
        layout += [("weight_packed", "I32", (out, -(-columns * base.bits // 32)))]
        layout += [("weight_scale", base.scale_dtype, (out, groups))]
        if not base.symmetric and base.bits == 1:
            layout += [("weight_zero_point", base.scale_dtype, (out, groups))]
        elif not base.symmetric:
            layout += [("weight_zero_point", "I32", (-(-out * base.bits // 32), groups))]
    if isinstance(base, DenseCodec):
        layout += [("weight", base.dtype, shape)]
        layout += [("weight_scale", "F32", (out, 1))] if base.dtype == "F8_E4M3" else []
    product = codec.correction if isinstance(codec, SumCodec) else codec
    if isinstance(product, LowRankCodec):
        layout += [
            ("lora_b", product.dtype, (out, product.rank)),
            ("lora_a", product.dtype, (product.rank, columns)),
        ]
    if isinstance(codec, PermutedCodec):
        layout += [("column_order", "I32", (1, columns))]
    if isinstance(codec, EntropyCodec):
        (_, dtype, size), *rest = layout
        room = 1 + math.prod(size) * np.dtype(_NUMPY[dtype]).itemsize if codec.payload is None else codec.payload
        layout = [("codes", "U8", (room, 1)), *rest]
    parts, begin = {}, 0
    for part, dtype, size in layout:
        end = begin + math.prod(size) * np.dtype(_NUMPY[dtype]).itemsize
        parts[part] = typed(data[begin:end], dtype, size)
        begin = end
    return parts, begin


def _beside_outliers(
    data: np.ndarray, codec: OutlierCodec, shape: tuple[int, int]
) -> tuple[dict[str, np.ndarray], int]:
    parts, begin = _blob_parts(data, codec.base, (shape[0], shape[1] - codec.columns))
    count = codec.columns
    for part, dtype, size in (
        ("outlier_columns", "I32", (1, count)),
        ("outlier_weight", codec.dtype, (shape[0], count)),
    ):
        end = begin + math.prod(size) * np.dtype(_NUMPY[dtype]).itemsize
        parts[part] = typed(data[begin:end], dtype, size)
        begin = end
    return parts, begin


def decoded_rows(codec: Codec, shape: tuple[int, int], parts: Mapping[str, np.ndarray]) -> Rows:
    """Return the decoded rows of a matrix from its parts, packed or (codes and zero points as int8) not."""
    if isinstance(codec, SumCodec):
        base, correction = (decoded_rows(part, shape, parts) for part in (codec.base, codec.correction))
        return lambda start, stop: base(start, stop) + correction(start, stop)
    if isinstance(codec, LowRankCodec):
        b, a = to_float32(parts["lora_b"]), to_float32(parts["lora_a"])
        return lambda start, stop: b[start:stop] @ a
    if isinstance(codec, DenseCodec):
        scales = parts.get("weight_scale")
        scale = None if scales is None else to_float32(scales).reshape(-1, 1)
        weight = parts["weight"]
        if scale is None:
            return float_rows(weight)
        return lambda start, stop: to_float32(weight[start:stop]) * (scale[start:stop] if len(scale) > 1 else scale)
    if isinstance(codec, IntegerCodec):
        return _integer_rows(codec, shape, parts)
    if isinstance(codec, OutlierCodec):
        apart, kept = parts["outlier_columns"].reshape(-1), to_float32(parts["outlier_weight"])
        order = np.argsort(np.concatenate([np.setdiff1d(np.arange(shape[1]), apart), apart]))
        rest = decoded_rows(codec.base, (shape[0], shape[1] - codec.columns), parts)
        return lambda start, stop: np.concatenate([rest(start, stop), kept[start:stop]], axis=1)[:, order]
    if isinstance(codec, RotatedCodec):
        turned, each = decoded_rows(codec.base, shape, parts), to_float32(parts["column_scale"])
        return lambda start, stop: _butterflies(turned(start, stop), codec.block) * each
    if isinstance(codec, PermutedCodec):
        places = np.argsort(parts["column_order"].reshape(-1))
        inner = decoded_rows(codec.base, shape, parts)
        return lambda start, stop: inner(start, stop)[:, places]
    if isinstance(codec, EntropyCodec):
        return decoded_rows(codec.base, shape, independent_entropy.base_parts(codec, shape, parts))
    if isinstance(codec, GridCodec):
        return independent_entropy.grid_rows(parts)
    found = independent_floats.rows_of(codec, shape, parts) or independent_nested.rows_of(codec, shape, parts)
    if found is not None:
        return found
    raise VerificationError(f"no independent decoder for {codec.label}")


def _butterflies(rows: np.ndarray, block: int) -> np.ndarray:
    """Return rows times Sylvester's matrix, each whole block of columns apart, by sums and differences."""
    whole, turned = rows.shape[1] // block * block, rows.astype(np.float32)
    span = 1
    while span < block:
        halves = turned[:, :whole].reshape(len(rows), -1, 2, span)
        both = np.stack([halves[:, :, 0] + halves[:, :, 1], halves[:, :, 0] - halves[:, :, 1]], axis=2)
        turned[:, :whole] = both.reshape(len(rows), whole)
        span *= 2
    turned[:, :whole] /= np.float32(math.sqrt(block))
    return turned


def _integer_rows(codec: IntegerCodec, shape: tuple[int, int], parts: Mapping[str, np.ndarray]) -> Rows:
    out, columns = shape
    bits, half = codec.bits, 1 << (codec.bits - 1)
    scale = to_float32(parts["weight_scale"])
    zero = parts.get("weight_zero_point")
    if zero is not None and zero.dtype == np.int32:
        zero = fields(np.ascontiguousarray(zero.T), bits, out).T.astype(np.int16) - half
    each = codec.group_size or columns
    if "weight_packed" in parts:
        data = np.ascontiguousarray(parts["weight_packed"]).view(np.uint8).reshape(out, -1)
        nothing = half - 0.5 if bits == 1 else half
        middle = np.full(scale.shape, nothing, np.float32) if zero is None else zero.astype(np.float32) + half
        # Compiled loops read neither columns first nor numbers at odd bytes, as within a blob.
        scale, middle = (np.require(array, None, ["C", "A"]) for array in (scale, middle))
        return PackedRows(data, bits, columns, each, scale, middle)

    def rows(start: int, stop: int) -> np.ndarray:
        values = parts["weight"][start:stop].astype(np.float32)
        whole = columns // each * each
        for first, last, width in ((0, whole, each), (whole, columns, columns - whole)):
            if last > first:
                block = values[:, first:last].reshape(stop - start, -1, width, copy=False)
                groups = slice(first // each, first // each + block.shape[1])
                if zero is not None:
                    block -= zero[start:stop, groups, None].astype(np.float32)
                block *= scale[start:stop, groups, None]
        return values

    return rows


@dataclass(frozen=True)
class PackedRows:
    """The rows of a matrix of packed integers.

    Attributes:
        data: uint8 [out, bytes of a row].
        bits: of a field.
        columns: of the matrix.
        group: columns that share a scale.
        scale: float32 [out, groups].
        middle: float32 [out, groups], the field of the value 0.
    """

    data: np.ndarray
    bits: int
    columns: int
    group: int
    scale: np.ndarray
    middle: np.ndarray

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop) as float32."""
        from steelyard.formats import _second_reader

        decoded = np.empty((stop - start, self.columns), np.float32)
        _second_reader.integer_rows(*self._part(start, stop), decoded)
        return decoded

    def squares(self, start: int, stop: int, original: np.ndarray) -> tuple[float, float]:
        """Return the sums of squares of these rows less their originals, bfloat16, and of the originals."""
        from steelyard.formats import _second_reader

        bits = np.require(original, None, ["C", "A"]).view(np.uint16)
        lost, kept = _second_reader.integer_squares(*self._part(start, stop), bits)
        return float(lost), float(kept)

    def _part(self, start: int, stop: int) -> tuple[np.ndarray, int, int, np.ndarray, np.ndarray]:
        rows = slice(start, stop)
        return self.data[rows], self.bits, self.group, self.scale[rows], self.middle[rows]


def fields(words: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """Return unsigned fields of `bits` bits from int32 rows, least significant first, as uint8 [rows, columns]."""
    row_bytes = np.ascontiguousarray(words).view(np.uint8).reshape(words.shape[0], -1)
    mask = (1 << bits) - 1
    if 8 % bits == 0:
        bytewise = np.stack([(row_bytes >> shift) & mask for shift in range(0, 8, bits)], axis=-1)
        return bytewise.reshape(words.shape[0], -1)[:, :columns]
    # Eight fields take exactly `bits` bytes, which fit in one 64-bit number.
    eights = -(-columns // 8)
    flat = np.zeros((words.shape[0], eights * bits), np.uint8)
    taken = min(flat.shape[1], row_bytes.shape[1])
    flat[:, :taken] = row_bytes[:, :taken]
    padded = flat.reshape(words.shape[0], eights, bits)
    whole = np.zeros((words.shape[0], eights), np.uint64)
    for place in range(bits):
        whole |= padded[:, :, place].astype(np.uint64) << np.uint64(8 * place)
    found = np.empty((words.shape[0], eights, 8), np.uint8)
    for place in range(8):
        found[:, :, place] = (whole >> np.uint64(bits * place)) & np.uint64(mask)
    return found.reshape(words.shape[0], -1)[:, :columns]
