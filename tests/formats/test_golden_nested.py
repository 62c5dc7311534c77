"""The bytes that the pages of nested codes and of chains of signs specify."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest

from steelyard.codecs import AnyPrecisionCodec, NestedCodec, SignChainCodec, blob, split
from steelyard.formats.independent import blob_rows

PAGES = Path(__file__).parents[2] / "docs" / "formats"
SHAPE = OUT, IN = (2, 20)
CODES = AnyPrecisionCodec(4, 3)
SHARED = AnyPrecisionCodec(2, 2, None, "F32")
CHAIN = SignChainCodec(2, 1)


def golden(page: str, name: str) -> bytes:
    found = re.search(rf"<!-- golden {name} -->\n```text\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)
    assert found is not None, f"{page} has no golden {name}"
    return bytes.fromhex(found[1])


def row_of_bits(bits: list[int]) -> bytes:
    """The first bit in the highest place."""
    size = -(-len(bits) // 8)
    return (int("".join(map(str, bits)), 2) << (8 * size - len(bits))).to_bytes(size, "big")


def plane(width: int, bits: int) -> bytes:
    return b"".join(
        row_of_bits([(7 * i + 3 * j) % (1 << bits) >> (bits - width) & 1 for j in range(IN)]) for i in range(OUT)
    )


def value(i: int, code: int, width: int) -> float:
    """The middle of what the 4-bit codes that begin with a code stand for, in row i."""
    return ((code + 0.5) * 2 ** (4 - width) - 8) / 4 / 2**i


def codes() -> tuple[bytes, list[list[float]]]:
    data = plane(1, 4) + plane(2, 4)
    for width in (3, 4):
        table = [value(i, code, width) for i in range(OUT) for code in range(1 << width)]
        data += plane(width, 4) + struct.pack(f"<{len(table)}e", *table)
    return data, [[value(i, (7 * i + 3 * j) % 16, 4) for j in range(IN)] for i in range(OUT)]


def shared() -> tuple[bytes, list[list[float]]]:
    table, scale = [-1.5, -0.5, 0.5, 1.5], [1.0, 4.0]
    data = struct.pack("<2f", *scale) + plane(1, 2) + plane(2, 2) + struct.pack("<4f", *table)
    return data, [[table[(7 * i + 3 * j) % 4] * scale[i] for j in range(IN)] for i in range(OUT)]


def chain() -> tuple[bytes, list[list[float]]]:
    data, total = b"", np.zeros(SHAPE)
    for block in (1, 2):
        plus = [[int((i + j) % (block + 2) > 0) for j in range(IN)] for i in range(OUT)]
        u, v = [2.0 - block / 2, 1.0], [(1 + j % 4) / 2**block for j in range(IN)]
        data += b"".join(map(row_of_bits, plus)) + struct.pack("<2e", *u) + struct.pack(f"<{IN}e", *v)
        total += (2 * np.array(plus) - 1) * np.outer(u, v)
    return data, total.tolist()


CASES = {
    "any-precision": ("any-precision.md", CODES, codes),
    "any-precision-shared": ("any-precision.md", SHARED, shared),
    "sign-chain": ("sign-chain.md", CHAIN, chain),
}


@pytest.mark.parametrize("name", CASES)
def test_both_readers_read_the_pages_bytes(name: str) -> None:
    page, codec, build = CASES[name]
    data, rows = build()
    assert golden(page, name) == data
    array = np.frombuffer(data, np.uint8)
    parts = split(array, codec, SHAPE)
    assert np.array_equal(codec.decode(parts, SHAPE), np.array(rows, np.float32))
    assert np.array_equal(blob_rows(array, codec, SHAPE)(0, OUT), np.array(rows, np.float32))
    assert blob(parts, codec, SHAPE).tobytes() == data


@pytest.mark.parametrize(("codec", "build", "level"), [(CODES, codes, 3), (CHAIN, chain, 1)])
def test_a_beginning_is_a_smaller_version(codec: NestedCodec, build, level: int) -> None:  # type: ignore[no-untyped-def]
    data, _ = build()
    less = codec.at(level)
    first = np.frombuffer(data[: less.nbytes(SHAPE)], np.uint8)
    decoded = less.decode(split(first, less, SHAPE), SHAPE)
    if isinstance(less, AnyPrecisionCodec):
        expected = [[value(i, (7 * i + 3 * j) % 16 >> 1, 3) for j in range(IN)] for i in range(OUT)]
    else:
        expected = [
            [(1 if (i + j) % 3 else -1) * [1.5, 1.0][i] * (1 + j % 4) / 2 for j in range(IN)] for i in range(OUT)
        ]
    assert np.array_equal(decoded, np.array(expected, np.float32))
