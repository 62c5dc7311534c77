"""The bytes the page on GGUF specifies, against the codecs, gguf-py and the page's own formula."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from steelyard.codecs.gguf import GgufCodec
from steelyard.codecs.gguf.types import LEVELS, NUMBERS, TYPES
from steelyard.formats.gguf import _second_reader

PAGE = (Path(__file__).parents[2] / "docs" / "formats" / "gguf.md").read_text()
GOLDEN = dict(re.findall(r"<!-- golden (\S+) -->\n```text\n(.*?)```", PAGE, re.DOTALL))


def by_the_page(kind: str) -> np.ndarray:
    """Return the weights that the page's formula gives a block."""
    levels, numbers = LEVELS[kind], TYPES[NUMBERS[kind]].numbers
    values = list(levels.table) or list(range(levels.low, levels.high + 1))
    weights = []
    for i in range(numbers):
        level, group = values[(5 * i + i // 32) % len(values)], i // levels.each
        many = levels.scale_high - levels.scale_low + 1
        scale = levels.scale_low + (7 * group + 3) % many if levels.scale_high else 1
        least = (5 * group + 1) % many if levels.scale_high else 1
        sign = {"": 0, "below": -1, "any": 1}[levels.minimum]
        weights.append(0.5 * scale * level + sign * 0.25 * least)
    return np.array(weights, np.float32)


@pytest.mark.parametrize("kind", GOLDEN)
def test_bytes_mean_what_the_page_says(kind: str) -> None:
    block = np.frombuffer(bytes.fromhex(GOLDEN[kind]), np.uint8)[None]
    numbers = TYPES[NUMBERS[kind]].numbers
    assert block.shape == (1, TYPES[NUMBERS[kind]].nbytes)
    decoded = GgufCodec(kind).decode({"blocks": block}, (1, numbers))
    assert np.array_equal(decoded[0], by_the_page(kind))
    assert np.array_equal(decoded, quants.dequantize(block, GGMLQuantizationType[kind]))


@pytest.mark.parametrize("kind", LEVELS)
def test_the_second_reader_reads_any_block_as_gguf_does(kind: str) -> None:
    numbers, nbytes = TYPES[NUMBERS[kind]].numbers, TYPES[NUMBERS[kind]].nbytes
    blocks = np.random.default_rng(2).integers(0, 256, (9, 3 * nbytes), dtype=np.uint8)
    decoded = np.empty((9, 3 * numbers), np.float32)
    _second_reader.rows(blocks, NUMBERS[kind], numbers, decoded)
    with np.errstate(all="ignore"):
        theirs = quants.dequantize(blocks, GGMLQuantizationType[kind])
    assert np.array_equal(decoded, theirs, equal_nan=True)


def test_the_table_of_types_is_complete() -> None:
    rows = re.findall(r"^\| `Q?I?.*?\|.*?\|.*?\|.*?\|", PAGE, re.MULTILINE)
    told = {
        name for row in rows for name in re.findall(r"`([A-Z0-9_]+K?)`", row.partition("|")[2].partition("|")[0])
    }
    assert set(LEVELS) <= told
