"""The bytes that the page of entropy-coded integers specifies, decoded by a decoder written from the page."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest

from steelyard.codecs import EntropyCodec, GridCodec, IntegerCodec, blob, split
from steelyard.errors import UserError, VerificationError
from steelyard.formats.independent import blob_rows

PAGE = Path(__file__).parents[2] / "docs" / "formats" / "entropy.md"
SHAPE = OUT, IN = (4, 40)


def golden() -> bytes:
    found = re.search(r"<!-- golden entropy -->\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return bytes.fromhex(found[1])


def code(i: int, j: int) -> int:
    return (7 * i + 3 * j) % 5 - 2 if j % 2 == 0 else 0


CODES = np.array([[code(i, j) for j in range(IN)] for i in range(OUT)], np.int8)


def decoded_by_the_page(data: bytes, out: int, columns: int) -> np.ndarray:
    assert data[0] == 1
    contexts, floor, place = data[1], data[2], 3
    classes = []
    for size in (out, columns):
        width = (size + 1) // 2 if contexts > 1 else 0
        nibbles = [n for byte in data[place : place + width] for n in (byte & 15, byte >> 4)]
        classes.append(nibbles[:size] if contexts > 1 else [0] * size)
        place += width
    tables = []
    for _ in range(contexts):
        (largest,) = struct.unpack_from("<H", data, place)
        half = struct.unpack_from(f"<{largest + 1}H", data, place + 2)
        place += 2 * (largest + 2)
        tables.append([(v, half[abs(v)]) for v in range(-largest, largest + 1)])
        assert sum(f for _, f in tables[-1]) == 4096
    step = -(-16384 // columns)
    runs = -(-out // step)
    ends = struct.unpack_from(f"<{runs + 1}I", data, place)
    place += 4 * (runs + 1)
    levels = np.zeros((out, columns), np.int64)
    for run in range(runs):
        words = list(struct.unpack_from(f"<{ends[run + 1] - ends[run]}H", data, place + 2 * ends[run]))
        states = [words.pop(0) + 65536 * words.pop(0) for _ in range(4)]
        for i in range(run * step, min(out, (run + 1) * step)):
            for j in range(columns):
                x = states[j % 4]
                begin = 0
                for level, frequency in tables[max(0, classes[0][i] + classes[1][j] - floor)]:
                    if begin <= x % 4096 < begin + frequency:
                        levels[i, j] = level
                        x = frequency * (x // 4096) + x % 4096 - begin
                        break
                    begin += frequency
                states[j % 4] = x if x >= 65536 else x * 65536 + words.pop(0)
        assert states == [65536] * 4 and not words
    return levels


def test_the_bytes_of_the_page() -> None:
    base = GridCodec(0.5)
    parts = base.from_codes(CODES, np.full(OUT, 128), np.full(IN, 128), 0.5)
    codec = EntropyCodec(base).fitted(parts, SHAPE)
    coded = codec.code(parts, SHAPE)
    assert coded["codes"].tobytes() == golden()
    assert codec.payload == len(golden()) < CODES.size
    assert np.array_equal(decoded_by_the_page(golden(), *SHAPE), CODES)
    assert np.array_equal(codec.decode(coded, SHAPE), CODES * np.float32(0.5))


@pytest.mark.parametrize("base", [IntegerCodec(4, 32, False), IntegerCodec(3, None), GridCodec(0.4)], ids=str)
def test_contexts_and_runs_as_the_page_has_them(base: IntegerCodec | GridCodec) -> None:
    rng = np.random.default_rng(1)
    weight = (rng.standard_normal((70, 260)) * np.exp(rng.standard_normal((70, 1)))).astype(np.float32)
    parts = base.encode(weight)
    codec = EntropyCodec(base).fitted(parts, weight.shape)
    coded = codec.code(parts, weight.shape)
    assert codec.nbytes(weight.shape) < base.nbytes(weight.shape)
    levels = decoded_by_the_page(coded["codes"].tobytes(), *weight.shape)
    if isinstance(base, GridCodec):
        assert np.array_equal(levels, parts["weight"])
        assert coded["codes"][1, 0] > 1
    else:
        codes, _, zero = base.to_codes(parts, weight.shape)
        each = np.arange(260) // (base.group_size or 260)
        assert np.array_equal(levels, codes - (0 if zero is None else zero.astype(int)[:, each]))
    assert np.array_equal(codec.decode(coded, weight.shape), base.decode(parts, weight.shape))
    entropy = sum(-np.log2(n / levels.size) * n for n in np.unique(levels, return_counts=True)[1]) / 8
    assert coded["codes"].size < entropy * 1.03 + 700  # tables, classes and states of two runs


def test_damage_is_noticed() -> None:
    weight = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    base = GridCodec(0.5)
    codec = EntropyCodec(base).fitted(base.encode(weight), weight.shape)
    good = blob(codec.encode(weight), codec, weight.shape)
    noticed = 0
    for place in (1, 4, 10, codec.payload - 3, codec.payload - 9):
        bad = good.copy()
        bad[place] ^= 0x55
        with pytest.raises((VerificationError, UserError)):
            blob_rows(bad, codec, weight.shape)(0, 40)
        try:
            changed = codec.decode(split(bad, codec, weight.shape), weight.shape)
            noticed += not np.array_equal(changed, codec.decode(split(good, codec, weight.shape), weight.shape))
        except UserError as error:
            noticed += "damaged" in str(error) or "folder" in str(error)
    assert noticed == 5
    with pytest.raises(UserError, match="more than its payload"):
        EntropyCodec(base, codec.payload - 1).encode(weight, "w")
    with pytest.raises(UserError, match="nothing to save"):
        EntropyCodec(IntegerCodec(1, 32))
