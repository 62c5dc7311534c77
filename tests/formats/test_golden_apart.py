"""The bytes that the pages of outlier columns and of rotated codes specify."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest

from steelyard.codecs import IntegerCodec, OutlierCodec, RotatedCodec, blob, split
from steelyard.formats.independent import blob_rows

PAGES = Path(__file__).parents[2] / "docs" / "formats"
SHAPE = OUT, IN = (2, 20)
BASE = IntegerCodec(4, 16, True, "F16")


def golden(name: str) -> bytes:
    found = re.search(rf"<!-- golden {name} -->\n```text\n(.*?)```", (PAGES / f"{name}.md").read_text(), re.DOTALL)
    assert found is not None, f"{name}.md has no golden bytes"
    return bytes.fromhex(found[1])


def integers(columns: int) -> tuple[bytes, np.ndarray]:
    """Fields from the lowest bit up in words of 32, then scales; and what they stand for."""
    fields = [[(7 * i + 3 * j) % 16 for j in range(columns)] for i in range(OUT)]
    size = -(-columns * 4 // 32) * 4
    data = b"".join(sum(f << (4 * j) for j, f in enumerate(row)).to_bytes(size, "little") for row in fields)
    scales = [[2.0 ** -(i + g) for g in range(2)] for i in range(OUT)]
    data += b"".join(struct.pack("<2e", *row) for row in scales)
    values = [[(row[j] - 8) * scales[i][j // 16] for j in range(columns)] for i, row in enumerate(fields)]
    return data, np.array(values)


def brain(*values: float) -> bytes:
    return b"".join(struct.pack("<f", value)[2:] for value in values)


def outliers() -> tuple[bytes, np.ndarray]:
    data, rest = integers(18)
    data += struct.pack("<2i", 3, 7) + brain(1.5, 3.0, -2.0, 0.25)
    kept = np.array([[1.5, 3.0], [-2.0, 0.25]])
    return data, np.column_stack([rest[:, :3], kept[:, 0], rest[:, 3:6], kept[:, 1], rest[:, 6:]])


def rotated() -> tuple[bytes, np.ndarray]:
    data, base = integers(20)
    scale = [(-1) ** j * 2.0 ** (j % 3) for j in range(IN)]
    turn = np.eye(IN)
    for first in (0, 8):
        for i in range(8):
            for j in range(8):
                turn[first + i, first + j] = (-1) ** (i & j).bit_count() / np.sqrt(8)
    return data + brain(*scale), base @ turn * scale


@pytest.mark.parametrize(
    ("name", "codec", "expected"),
    [("outliers", OutlierCodec(BASE, 2), outliers()), ("rotated", RotatedCodec(BASE, 8), rotated())],
)
def test_golden_bytes(name: str, codec: OutlierCodec | RotatedCodec, expected: tuple[bytes, np.ndarray]) -> None:
    data, values = expected
    assert golden(name) == data and codec.nbytes(SHAPE) == len(data)
    array = np.frombuffer(data, np.uint8)
    parts = split(array, codec, SHAPE)
    assert blob(parts, codec, SHAPE).tobytes() == data
    np.testing.assert_allclose(codec.decode(parts, SHAPE), values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(blob_rows(array, codec, SHAPE)(0, OUT), values, rtol=1e-5, atol=1e-6)
