"""Codebooks against their definition, against brute force, and against what theory says k-means reaches."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from codec_examples import normal, relative
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.codecs import CodebookCodec, from_dict, split
from steelyard.codecs.clustering import Vectors, k_means, means, nearest
from steelyard.errors import UserError
from steelyard.formats.independent import blob_rows


def plain(
    codec: CodebookCodec, codes: np.ndarray, tables: np.ndarray, scale: np.ndarray, columns: int
) -> np.ndarray:
    """Every weight by the formula, one at a time."""
    found = np.zeros((len(codes), columns))
    for i in range(len(codes)):
        for j in range(columns):
            each = (tables[m][codes[i, j // codec.group, m]][j % codec.group] for m in range(codec.codebooks))
            found[i, j] = sum(float(word) for word in each) * float(scale[i])
    return found


@settings(max_examples=25, deadline=None)
@given(
    codebooks=st.integers(1, 3),
    bits=st.integers(1, 11),
    group=st.integers(1, 9),
    out=st.integers(1, 5),
    columns=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_codes_come_back_and_mean_the_formula(
    codebooks: int, bits: int, group: int, out: int, columns: int, seed: int
) -> None:
    codec = CodebookCodec(codebooks, bits, group, "F32", "F32")
    draw = np.random.default_rng(seed)
    codes = draw.integers(0, 1 << bits, (out, codec.groups(columns), codebooks))
    tables = draw.standard_normal((codebooks, 1 << bits, group)).astype(np.float32)
    scale = draw.standard_normal(out).astype(np.float32)
    parts = codec.from_codes(codes, tables, scale, (out, columns))
    assert sum(part.nbytes for part in parts.values()) == codec.nbytes((out, columns))
    again = codec.to_codes(parts, (out, columns))
    for before, after in zip((codes, tables, scale), again, strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(
        codec.decode(parts, (out, columns)), plain(codec, codes, tables, scale, columns), rtol=1e-5, atol=1e-5
    )


def test_bytes_are_codes_scales_and_tables() -> None:
    # 2 x 8 bits for each 8 of 4096 columns, two bytes for a row, 2 x 256 codewords of 8 numbers of two bytes.
    assert CodebookCodec(2, 8, 8).nbytes((4096, 4096)) == 4096 * 512 * 2 + 4096 * 2 + 2 * 256 * 8 * 2
    assert CodebookCodec(1, 8, 8, table_dtype="F8_E4M3").bits_per_weight((8192, 8192)) < 1.003
    assert CodebookCodec(1, 3, 4).nbytes((2, 9)) == 2 * math.ceil(3 * 3 / 8) + 2 * 2 + 8 * 4 * 2


def test_the_first_of_the_nearest_codewords_is_found() -> None:
    draw = np.random.default_rng(4)
    weight = draw.standard_normal((7, 20)).astype(np.float32)
    importance = draw.random(20)
    vectors = Vectors.of(weight, np.full(7, 0.5, np.float32), 4, importance)
    words = draw.standard_normal((37, 4)).astype(np.float32)
    words[20] = words[3]
    chosen, distance = nearest(vectors, words)
    shaped = (weight / 0.5).reshape(7, 5, 1, 4).astype(np.float64)
    counts = (importance / importance.mean()).reshape(1, 5, 1, 4)
    every = (counts * (shaped - words) ** 2).sum(axis=3)
    np.testing.assert_array_equal(chosen, every.argmin(axis=2))
    np.testing.assert_allclose(distance, every.min(axis=2), rtol=1e-4)


def test_means_are_those_of_rows_and_columns_that_count() -> None:
    draw = np.random.default_rng(5)
    weight, importance = draw.standard_normal((6, 8)).astype(np.float32), draw.random(8)
    scale = np.array([1, 2, 1, 0.5, 1, 3], np.float32)
    vectors = Vectors.of(weight, scale, 4, importance)
    chosen = draw.integers(0, 3, (6, 2)).astype(np.uint16)
    words = np.zeros((4, 4), np.float32)
    found = means(vectors, chosen, words)
    # The least squares of scale * word for the rows that chose it, weighted by the importance of their columns.
    for word in range(3):
        for j in range(4):
            at = [(i, g * 4 + j) for i, g in np.argwhere(chosen == word)]
            above = sum(importance[c] * scale[r] * float(weight[r, c]) for r, c in at)
            below = sum(importance[c] * float(scale[r]) ** 2 for r, c in at)
            np.testing.assert_allclose(found[word, j], above / below, rtol=1e-4)
    np.testing.assert_array_equal(found[3], 0)


def test_one_bit_of_a_normal_variable_is_lloyds() -> None:
    # Max 1960: two levels leave 1 - 2/pi of the power, four 0.1175.
    weight = normal((256, 256), spread=1.0)
    for bits, left in ((1, 1 - 2 / math.pi), (2, 0.1175)):
        codec = CodebookCodec(1, bits, 1, "F32", "F32")
        decoded = codec.decode(codec.encode(weight), weight.shape)
        assert relative(decoded, weight) ** 2 == pytest.approx(left, rel=0.02)


def test_vectors_beat_scalars_at_equal_codes_and_sums_beat_their_first_term() -> None:
    weight = normal((512, 256))
    left = {}
    for codec in (CodebookCodec(1, 1, 1), CodebookCodec(1, 4, 4), CodebookCodec(1, 8, 8), CodebookCodec(2, 4, 4)):
        left[codec.label] = relative(codec.decode(codec.encode(weight), weight.shape), weight)
    assert left["codebook 2x4 g4"] < left["codebook 1x8 g8"] < left["codebook 1x4 g4"] < left["codebook 1x1 g1"]


def test_k_means_keeps_every_codeword_in_use_and_repeats_itself() -> None:
    weight = np.repeat(np.random.default_rng(1).standard_normal((8, 16)), 4, axis=0).astype(np.float32)
    vectors = Vectors.of(weight, np.ones(32, np.float32), 4, None)
    words = k_means(vectors, 32, 8, 0, "a")
    assert len(np.unique(nearest(vectors, words)[0])) == 32
    assert nearest(vectors, words)[1].max() < 1e-10  # as many codewords as there are different vectors
    np.testing.assert_array_equal(words, k_means(vectors, 32, 8, 0, "a"))
    assert not np.array_equal(words, k_means(vectors, 32, 8, 1, "a"))


def test_more_codewords_than_vectors() -> None:
    weight = normal((2, 8))
    codec = CodebookCodec(1, 8, 4, "F32", "F32")
    np.testing.assert_allclose(codec.decode(codec.encode(weight), weight.shape), weight, rtol=1e-6)
    zeros = np.zeros((3, 5), np.float32)
    for each in (codec, CodebookCodec(2, 3, 4)):
        np.testing.assert_array_equal(each.decode(each.encode(zeros), zeros.shape), zeros)


def test_bad_values_are_refused() -> None:
    with pytest.raises(UserError, match="bits of a codebook codec is a whole number from 1 to 16, not 17"):
        CodebookCodec(bits=17)
    with pytest.raises(UserError, match=r"table_dtype is one of .*; not F4"):
        from_dict({"name": "codebook", "table_dtype": "F4"})
    with pytest.raises(UserError, match="w holds nan"):
        CodebookCodec().encode(np.full((4, 8), np.nan, np.float32), "w")
    codec = CodebookCodec(1, 2, 4)
    with pytest.raises(ValueError, match=r"codes of .* lie in \[0, 3\]"):
        codec.from_codes(np.full((2, 1, 1), 4), np.zeros((1, 4, 4)), np.ones(2), (2, 4))


def test_the_page_has_the_bytes_it_describes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats" / "codebook.md").read_text()
    found = re.search(r"<!-- golden codebook -->\n```text\n(.*?)```", page, re.DOTALL)
    assert found is not None
    data = np.frombuffer(bytes.fromhex(found[1]), np.uint8)
    codec, shape = CodebookCodec(2, 3, 8, "F32"), (2, 20)
    assert len(data) == codec.nbytes(shape)

    def weight(i: int, j: int) -> float:
        g, c = divmod(j, 8)
        words = (((3 * i + 2 * g + 5 * m) % 8 - c / 2) * (1 - 3 * m / 4) for m in range(2))
        return sum(words) * (1, 0.5)[i]

    expected = np.array([[weight(i, j) for j in range(20)] for i in range(2)], np.float32)
    np.testing.assert_array_equal(codec.decode(split(data, codec, shape), shape), expected)
    np.testing.assert_array_equal(blob_rows(data, codec, shape)(0, 2), expected)
