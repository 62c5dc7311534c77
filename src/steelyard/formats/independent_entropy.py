"""The second reader's part for grids and entropy-coded integers; by specification, as the rest of it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

import numpy as np

from steelyard.codecs import EntropyCodec, GridCodec, IntegerCodec
from steelyard.errors import VerificationError

Rows = Callable[[int, int], np.ndarray]


def grid_rows(parts: Mapping[str, np.ndarray]) -> Rows:
    """Return the rows of a grid: code * scale * 2**((row - 128) / 8) * 2**((column - 128) / 8)."""
    scale = np.float64(parts["weight_scale"].reshape(()))
    row = np.exp2((parts["row_exponent"].astype(np.float64) - 128) / 8) * scale
    column = np.exp2((parts["column_exponent"].astype(np.float64) - 128) / 8)
    return lambda start, stop: (parts["weight"][start:stop] * row[start:stop] * column).astype(np.float32)


def base_parts(
    codec: EntropyCodec, shape: tuple[int, int], parts: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return parts of the base: as they are, and its codes as int8.

    Raises:
        VerificationError: if the stream is not what the specification says.
    """
    rest = {name: part for name, part in parts.items() if name != "codes"}
    data = parts["codes"].reshape(-1)
    if data[0] == 0:
        key = "weight_packed" if isinstance(codec.base, IntegerCodec) else "weight"
        if key == "weight":
            return {key: data[1 : 1 + shape[0] * shape[1]].view(np.int8).reshape(shape), **rest}
        words = -(-shape[1] * codec.base.bits // 32) if isinstance(codec.base, IntegerCodec) else 0
        return {
            key: np.frombuffer(data[1 : 1 + 4 * shape[0] * words].tobytes(), "<i4").reshape(shape[0], words),
            **rest,
        }
    levels = _levels(data.tobytes(), shape)
    zero = rest.get("weight_zero_point")
    if isinstance(codec.base, GridCodec) or zero is None:
        return {"weight": levels, **rest}
    from steelyard.formats.independent import fields

    bits, group = codec.base.bits, codec.base.group_size or shape[1]
    whole = fields(np.ascontiguousarray(zero.T), bits, shape[0]).T.astype(np.int16) - (1 << (bits - 1))
    return {**rest, "weight": levels + whole[:, np.arange(shape[1]) // group], "weight_zero_point": whole}


def _levels(data: bytes, shape: tuple[int, int]) -> np.ndarray:
    from steelyard.formats import _second_reader_entropy

    rows, columns = shape
    try:
        _, contexts, floor = struct.unpack_from("<3B", data, 0)
        place = 3
        classes = []
        for size in shape:
            packed = data[place : place + (size + 1) // 2] if contexts > 1 else bytes((size + 1) // 2)
            nibbles = [nibble for byte in packed for nibble in (byte % 16, byte // 16)]
            classes.append(np.array(nibbles[:size], np.int64))
            place += len(packed) if contexts > 1 else 0
        tables = []
        for _ in range(contexts):
            (top,) = struct.unpack_from("<H", data, place)
            tables.append(struct.unpack_from(f"<{top + 1}H", data, place + 2))
            place += 2 * (top + 2)
        halves = np.zeros((contexts, max(map(len, tables))), np.int64)
        for line, table in zip(halves, tables, strict=True):
            line[: len(table)] = table
        step = -(-16384 // columns)
        starts = list(range(0, rows, step))
        ends = struct.unpack_from(f"<{len(starts) + 1}I", data, place)
    except struct.error:
        raise VerificationError("the tables of entropy-coded integers end too early") from None
    place += 4 * (len(starts) + 1)
    if (2 * halves.sum(axis=1) - halves[:, 0] != 4096).any() or ends[0] != 0:
        raise VerificationError("the tables of entropy-coded integers do not add up")
    levels = np.empty(shape, np.int16)
    coded = np.frombuffer(data, np.uint8)
    for k, start in enumerate(starts):
        some = slice(start, start + step)
        run = coded[place + 2 * ends[k] : place + 2 * ends[k + 1]]
        lines = np.ascontiguousarray(classes[0][some] - floor)
        if int(lines.max()) + int(classes[1].max()) >= contexts:
            raise VerificationError("the classes of entropy-coded integers have no table")
        if not _second_reader_entropy.run_of_rows(run, lines, classes[1], halves, levels[some]):
            raise VerificationError(f"entropy-coded rows from {start} do not end as they began")
    if any(data[place + 2 * ends[-1] :]):
        raise VerificationError("entropy-coded integers are followed by more than zeros")
    return levels
