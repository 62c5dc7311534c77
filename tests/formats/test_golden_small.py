"""The bytes that the pages of small floats, tables, trits and other people's layouts specify."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from steelyard.codecs import (
    BlockwiseCodec,
    Codec,
    Float8Codec,
    IntegerCodec,
    MicroscalingCodec,
    Nvfp4Codec,
    PermutedCodec,
    PowerCodec,
    TernaryCodec,
    blob,
    split,
    tables,
)
from steelyard.formats.independent import blob_rows
from steelyard.formats.reading.awq import unpack_words
from steelyard.formats.writing import WRITERS
from steelyard.spec import ModelSpec

PAGES = Path(__file__).parents[2] / "docs" / "formats"
SHAPE = OUT, IN = (2, 20)
FLOAT4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
EIGHTS = {0x38: 1.0, 0x40: 2.0, 0x3C: 1.5, 0xB8: -1.0}
"""Some 8-bit floats, e4m3: sign, four bits of exponent with a bias of 7, three of fraction."""


def golden(page: str, name: str) -> bytes:
    found = re.search(rf"<!-- golden {name} -->\n```text\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)
    assert found is not None, f"{page} has no golden {name}"
    return bytes.fromhex(found[1])


def code(i: int, j: int) -> int:
    return (7 * i + 3 * j) % 16


def four(number: int) -> float:
    return FLOAT4[number & 7] * (-1 if number & 8 else 1)


def bits(values: list[int], width: int, size: int) -> bytes:
    """Fields from the lowest bit up, in `size` bytes."""
    return sum(value << (width * place) for place, value in enumerate(values)).to_bytes(size, "little")


def nibbles(high_first: bool) -> bytes:
    flat = [code(i, j) for i in range(OUT) for j in range(IN)]
    pairs = zip(flat[0::2], flat[1::2], strict=True)
    return bytes(a << 4 | b if high_first else b << 4 | a for a, b in pairs)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def blockwise() -> tuple[bytes, list[list[float]]]:
    table = [float(value) for value in tables.table("nf", 4)]
    scales = [1.0, 0.5, 0.25]
    rows = [[table[code(i, j)] * scales[(i * IN + j) // 16] for j in range(IN)] for i in range(OUT)]
    return nibbles(True) + floats(*scales), rows


def double() -> tuple[bytes, list[list[float]]]:
    """Scales: entries 255, 127 and 0 of the dynamic table, which are 1, 0 and about -0.993, times 0.5, plus 1."""
    table, dynamic = (tables.table(*kind).astype(np.float32) for kind in (("nf", 4), ("dynamic", 8)))
    scales = [dynamic[entry] * np.float32(0.5) + np.float32(1) for entry in (255, 127, 0)]
    rows = [[float(table[code(i, j)] * scales[(i * IN + j) // 16]) for j in range(IN)] for i in range(OUT)]
    return nibbles(True) + bytes([255, 127, 0]) + floats(0.5, 1.0), rows


def float8() -> tuple[bytes, list[list[float]]]:
    kinds = list(EIGHTS)
    elements = [[kinds[(i + j) % 4] for j in range(IN)] for i in range(OUT)]
    rows = [[EIGHTS[elements[i][j]] * 2.0 ** -(j // 16) for j in range(IN)] for i in range(OUT)]
    return bytes(value for line in elements for value in line) + floats(1.0, 0.5), rows


def mxfp4() -> tuple[bytes, list[list[float]]]:
    exponents = [[127, 126], [128, 125]]
    rows = [[four(code(i, j)) * 2.0 ** (exponents[i][j // 16] - 127) for j in range(IN)] for i in range(OUT)]
    return nibbles(False) + bytes(value for line in exponents for value in line), rows


def nvfp4() -> tuple[bytes, list[list[float]]]:
    scales = [[0x38, 0x40], [0x3C, 0x38]]
    rows = [[four(code(i, j)) * (EIGHTS[scales[i][j // 16]] / 4) for j in range(IN)] for i in range(OUT)]
    return nibbles(False) + bytes(value for line in scales for value in line) + floats(4.0), rows


def ternary() -> tuple[bytes, list[list[float]]]:
    trits = [[(i + j) % 3 - 1 for j in range(IN)] for i in range(OUT)]
    packed = bytes(
        sum((line[start + place] + 1) * 3**place for place in range(5))
        for line in trits
        for start in range(0, IN, 5)
    )
    rows = [[trit * scale for trit in line] for line, scale in zip(trits, (0.5, 0.25), strict=True)]
    return packed + floats(0.5, 0.25), rows


def power() -> tuple[bytes, list[list[float]]]:
    packed = b"".join(bits([code(i, j) for j in range(IN)], 4, 12) for i in range(OUT))
    levels = [float(np.float32(abs(n - 8) ** 1.5)) * (1 if n > 8 else -1) for n in range(16)]
    rows = [[levels[code(i, j)] * 2.0 ** -(j // 16) for j in range(IN)] for i in range(OUT)]
    return packed + floats(1.0, 0.5) * OUT + floats(1.5), rows


def quantile() -> tuple[bytes, list[list[float]]]:
    table = [n / 8 - 1 for n in range(16)]
    scales = [1.0, 0.5, 0.25]
    rows = [[table[code(i, j)] * scales[(i * IN + j) // 16] for j in range(IN)] for i in range(OUT)]
    return nibbles(True) + floats(*scales) + floats(*table), rows


def one_bit() -> tuple[bytes, list[list[float]]]:
    """Levels of the first row -1.25 and 0.75, of the second -0.25 and 0.25."""
    packed = b"".join(bits([code(i, j) % 2 for j in range(IN)], 1, 4) for i in range(OUT))
    rows = [[[-1.25, 0.75][code(0, j) % 2] for j in range(IN)], [[-0.25, 0.25][code(1, j) % 2] for j in range(IN)]]
    return packed + floats(2.0, 0.5, -0.375, -0.5), rows


def permuted() -> tuple[bytes, list[list[float]]]:
    """Column j of what is packed is column IN - 1 - j of the matrix."""
    packed = b"".join(bits([code(i, j) for j in range(IN)], 4, 12) for i in range(OUT))
    rows = [[(code(i, IN - 1 - j) - 8) * 2.0 ** -((IN - 1 - j) // 16) for j in range(IN)] for i in range(OUT)]
    order = struct.pack(f"<{IN}i", *reversed(range(IN)))
    return packed + floats(1.0, 0.5) * OUT + order, rows


CASES: dict[str, tuple[Codec, Callable[[], tuple[bytes, list[list[float]]]]]] = {
    "blockwise": (BlockwiseCodec("nf", 4, 16), blockwise),
    "blockwise-double": (BlockwiseCodec("nf", 4, 16, double=True), double),
    "float8": (Float8Codec("F8_E4M3", 2, 16), float8),
    "microscaling": (MicroscalingCodec("F4_E2M1", 16), mxfp4),
    "nvfp4": (Nvfp4Codec(), nvfp4),
    "ternary": (TernaryCodec(1, None, "F32"), ternary),
    "power": (PowerCodec(4, 16, None, "F32"), power),
    "blockwise-quantile": (BlockwiseCodec("quantile", 4, 16), quantile),
    "integer-1": (IntegerCodec(1, None, False, "F32"), one_bit),
    "permuted": (PermutedCodec(IntegerCodec(4, 16, True, "F32")), permuted),
}


@pytest.mark.parametrize("name", CASES)
def test_both_readers_read_the_pages_bytes(name: str) -> None:
    codec, build = CASES[name]
    data, rows = build()
    assert golden("native.md", name) == data
    array, expected = np.frombuffer(data, np.uint8), np.array(rows, np.float32)
    parts = split(array, codec, SHAPE)
    np.testing.assert_array_equal(codec.decode(parts, SHAPE), expected)
    np.testing.assert_array_equal(blob_rows(array, codec, SHAPE)(0, OUT), expected)
    assert blob(parts, codec, SHAPE).tobytes() == data


def test_the_tables_of_four_bits() -> None:
    """From what the page says of them, in float64; nf4 from its definition."""
    twelfths = [0, 1 / 16, 8, 12, 4, 6, 2, 3]
    floats4 = [0, 1, 2, 3, 4, 6, 8, 12]
    parts = [(n, k) for n in range(3) for k in range(2**n)]
    middles = [10.0 ** (n - 2) * (0.1 + 0.9 * (k + 0.5) / 2**n) for n, k in parts]
    offset = (1 - 1 / 30 + 1 - 1 / 32) / 2
    tail = [NormalDist().inv_cdf(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    head = [-NormalDist().inv_cdf(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    expected = {
        "fp4": [n / 12 for n in twelfths] + [-n / 12 for n in twelfths],
        "float": [n / 12 for n in floats4] + [-n / 12 for n in floats4],
        "dynamic": sorted([0.0, 1.0, *middles, *(-m for m in middles)]),
        "nf": [value / tail[0] for value in sorted([*tail, 0.0, *head])],
    }
    for kind, values in expected.items():
        data = np.frombuffer(golden("native.md", f"table-{kind}4"), "<f4")
        np.testing.assert_allclose(data, values, rtol=2e-6)
        np.testing.assert_array_equal(data, tables.table(kind, 4))


# Other people's layouts: one matrix [8, 16] of 4-bit codes under one scale a row, as a group of 16 columns.
SIDE, COLUMNS, GROUP = 8, 16, 16
SPEC = ModelSpec.build({"model_type": "", "dtype": "float16"}, {"a.weight": ((SIDE, COLUMNS), "F16")})


def integers() -> tuple[IntegerCodec, dict[str, np.ndarray], list[list[int]], list[int], list[float]]:
    q = [[(5 * o + 3 * i) % 16 for i in range(COLUMNS)] for o in range(SIDE)]
    z = [(o + 3) % 16 for o in range(SIDE)]
    s = [2.0**-o for o in range(SIDE)]
    codec = IntegerCodec(4, GROUP, False, "F16")
    column = np.array(s, np.float32)[:, None]
    parts = codec.from_codes(np.array(q, np.int8) - 8, column, np.array(z, np.int8)[:, None] - 8)
    return codec, parts, q, z, s


def gptq(version: int) -> dict[str, bytes]:
    _, _, q, z, s = integers()
    words = [[[q[o][8 * w + place] for place in range(8)] for o in range(SIDE)] for w in range(COLUMNS // 8)]
    return {
        "qweight": b"".join(bits(word, 4, 4) for line in words for word in line),
        "qzeros": bits([value - (version == 1) for value in z], 4, 4),
        "scales": struct.pack(f"<{SIDE}e", *s),
        "g_idx": struct.pack(f"<{COLUMNS}i", *(i // GROUP for i in range(COLUMNS))),
    }


def awq() -> dict[str, bytes]:
    _, _, q, z, s = integers()
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return {
        "qweight": b"".join(bits([q[o][i] for o in order], 4, 4) for i in range(COLUMNS)),
        "qzeros": bits([z[o] for o in order], 4, 4),
        "scales": struct.pack(f"<{SIDE}e", *s),
    }


@pytest.mark.parametrize(
    ("page", "format", "build"),
    [("gptq.md", "gptq", lambda: gptq(1)), ("gptq.md", "gptq-v2", lambda: gptq(2)), ("awq.md", "awq", awq)],
)
def test_writers_write_the_pages_bytes(page: str, format: str, build: Callable[[], dict[str, bytes]]) -> None:
    codec, parts, *_ = integers()
    made = WRITERS[format].arrays(SPEC, codec, parts, (SIDE, COLUMNS), "a")  # type: ignore[attr-defined]
    expected = build()
    assert set(made) == set(expected)
    for part, data in expected.items():
        assert made[part].tobytes() == data, part
        if format != "gptq-v2" or part == "qzeros":
            assert golden(page, f"{format}-{part}") == data
    if format == "awq":
        assert np.array_equal(unpack_words(made["qweight"]).T + 8, np.array(integers()[2]))


def test_the_description_of_bitsandbytes_is_as_long_whatever_its_numbers() -> None:
    codec = BlockwiseCodec("nf", 4, 64, double=True)
    weight = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    format = WRITERS["bitsandbytes"]
    sizes = set()
    for scale in (1.0, 1e-7, 1 / 3):
        parts = codec.encode(weight * np.float32(scale))
        made = format.arrays(SPEC, codec, parts, (8, 16), "a")  # type: ignore[attr-defined]
        text = made["weight.quant_state.bitsandbytes__nf4"]
        sizes.add(len(text))
        state = json.loads(bytes(text).decode())
        assert state["nested_offset"] == float(parts["nested_offset"][0, 0]) and state["shape"] == [8, 16]
    assert len(sizes) == 1
