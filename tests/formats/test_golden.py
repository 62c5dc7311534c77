"""The bytes the native format's page specifies, against the codecs and against the page's own words."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest

from steelyard import codecs
from steelyard.codecs import IntegerCodec, LowRankCodec, SumCodec, blob, split
from steelyard.formats.independent import blob_rows

PAGE = Path(__file__).parents[2] / "docs" / "formats" / "native.md"
SHAPE = OUT, IN = (3, 20)
INTEGER = IntegerCodec(bits=3, group_size=16, symmetric=False, scale_dtype="BF16")
SUM = SumCodec(INTEGER, LowRankCodec(rank=1, dtype="F16"))


def golden(name: str) -> bytes:
    found = re.search(rf"<!-- golden {name} -->\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return bytes.fromhex(found[1])


def code(i: int, j: int) -> int:
    return (5 * i + 3 * j) % 8 - 4


def zero(i: int, g: int) -> int:
    return i - g - 1


def scale(i: int, g: int) -> float:
    return 2.0 ** -(i + g)


def bits(values: list[int]) -> bytes:
    """Fields of three bits of value + 4, least significant first, in whole words of 32 bits."""
    number = sum((value + 4) << (3 * place) for place, value in enumerate(values))
    return number.to_bytes(4 * -(-len(values) * 3 // 32), "little")


def by_the_page() -> bytes:
    rows = b"".join(bits([code(i, j) for j in range(IN)]) for i in range(OUT))
    # bfloat16 is the upper half of float32.
    scales = b"".join(struct.pack("<f", scale(i, g))[2:] for i in range(OUT) for g in range(2))
    columns = [bits([zero(i, g) for i in range(OUT)]) for g in range(2)]
    return rows + scales + b"".join(columns)


def values() -> np.ndarray:
    return np.array(
        [[(code(i, j) - zero(i, j // 16)) * scale(i, j // 16) for j in range(IN)] for i in range(OUT)], np.float32
    )


PRODUCT = np.outer([1, 2, -3], np.arange(IN) / 4).astype(np.float32)


def test_the_page_follows_its_own_words() -> None:
    assert golden("integer") == by_the_page()
    halves = [1.0, 2.0, -3.0, *(j / 4 for j in range(IN))]
    assert golden("sum") == struct.pack(f"<{len(halves)}e", *halves)


def test_the_codecs_write_the_pages_bytes() -> None:
    i, j, g = np.arange(OUT)[:, None], np.arange(IN), np.arange(2)
    grid = [np.vectorize(function)(i, place) for function, place in ((code, j), (scale, g), (zero, g))]
    parts = INTEGER.from_codes(grid[0].astype(np.int8), grid[1].astype(np.float32), grid[2].astype(np.int8))
    assert blob(parts, INTEGER, SHAPE).tobytes() == golden("integer")


@pytest.mark.parametrize(
    ("codec", "data", "expected"),
    [(INTEGER, golden("integer"), values()), (SUM, golden("integer") + golden("sum"), values() + PRODUCT)],
)
def test_every_reader_reads_the_pages_bytes(codec: codecs.Codec, data: bytes, expected: np.ndarray) -> None:
    array = np.frombuffer(data, np.uint8)
    np.testing.assert_array_equal(codec.decode(split(array, codec, SHAPE), SHAPE), expected)
    np.testing.assert_array_equal(blob_rows(array, codec, SHAPE)(0, OUT), expected)
    np.testing.assert_array_equal(blob_rows(array, codec, SHAPE)(1, 2), expected[1:2])
    torch = pytest.importorskip("torch")
    from steelyard.formats.native.torch_decoding import PackedMatrix

    rows = PackedMatrix(codec, SHAPE).decode(torch.from_numpy(array.copy()), torch.arange(OUT))
    np.testing.assert_array_equal(rows.numpy(), expected)


def test_the_pages_entry_is_that_codec() -> None:
    found = re.search(r'"codec": (\{.*?\})', PAGE.read_text())
    assert found is not None
    import json

    assert codecs.from_dict(json.loads(found[1])) == INTEGER
