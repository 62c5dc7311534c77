"""What every registered codec must keep."""

from __future__ import annotations

import doctest
import importlib
import itertools
import json
import math
import pkgutil
from typing import TypeGuard

import ml_dtypes
import numpy as np
import pytest
from codec_examples import ALL, EXAMPLES, FLOATS, normal, relative
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard import codecs
from steelyard.codecs import by_rows as by_rows_module
from steelyard.errors import UserError
from steelyard.weights.dtypes import DTYPES

every_codec = pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.label)
sizes = st.tuples(st.integers(8, 70), st.integers(8, 200))


def by_rows(codec: codecs.Codec) -> TypeGuard[codecs.RowCodec]:
    return isinstance(codec, codecs.RowCodec) and codec.row_quantum is not None


def test_every_codec_has_an_example() -> None:
    assert set(EXAMPLES) == set(codecs.NAMES)


@every_codec
@settings(max_examples=15, deadline=None)
@given(shape=sizes, dtype=st.sampled_from(FLOATS), seed=st.integers(0, 9))
def test_parts_are_as_declared_and_survive_the_blob(
    codec: codecs.Codec, shape: tuple[int, int], dtype: np.dtype, seed: int
) -> None:
    weight = normal(shape, dtype, seed)
    parts = codec.encode(weight)
    declared = codec.parts(shape)
    assert list(parts) == list(declared)
    for key, (kind, part_shape) in declared.items():
        assert parts[key].dtype == DTYPES[kind].numpy
        assert parts[key].shape == part_shape
    assert codec.nbytes(shape) == sum(part.nbytes for part in parts.values())
    assert codec.bits_per_weight(shape) == codec.nbytes(shape) * 8 / math.prod(shape)
    data = codecs.blob(parts, codec, shape)
    assert data.dtype == np.uint8 and data.shape == (codec.nbytes(shape),)
    assert data.tobytes() == b"".join(parts[key].tobytes() for key in declared)
    again = codecs.split(data, codec, shape)
    for key in parts:
        assert again[key].dtype == parts[key].dtype and again[key].tobytes() == parts[key].tobytes()
    decoded = codec.decode(again, shape)
    assert decoded.dtype == np.float32 and decoded.shape == shape
    assert np.array_equal(decoded, codec.decode(parts, shape))


@every_codec
def test_split_reads_a_blob_at_any_address(codec: codecs.Codec) -> None:
    shape = (33, 47)
    parts = codec.encode(normal(shape))
    data = codecs.blob(parts, codec, shape)
    shifted = np.concatenate([np.zeros(1, np.uint8), data])[1:]
    shifted.setflags(write=False)
    assert np.array_equal(codec.decode(codecs.split(shifted, codec, shape), shape), codec.decode(parts, shape))


@every_codec
def test_plain_data_round_trip(codec: codecs.Codec) -> None:
    again = codecs.from_dict(json.loads(json.dumps(codec.to_dict())))
    assert again == codec and hash(again) == hash(codec) and again.label == codec.label


def test_labels_tell_codecs_apart() -> None:
    assert len({codec.label for codec in ALL}) == len(ALL)


@pytest.mark.parametrize("codec", filter(by_rows, ALL), ids=lambda codec: codec.label)
def test_rows_encoded_apart_are_the_rows_of_the_whole(codec: codecs.RowCodec) -> None:
    weight = normal((150, 70), FLOATS[1])
    whole = codec.encode(weight)
    for start, stop in itertools.pairwise([0, 32, 96, 150]):
        apart = codec.encode_rows(weight[start:stop], first_row=start)
        for key, part in codecs.slice_parts(codec, whole, start, stop).items():
            assert part.tobytes() == apart[key].tobytes()
            assert part.shape[0] == len(whole[key][codec.part_row(key, start) :][: len(part)])


@every_codec
def test_chunks_and_threads_do_not_change_a_bit(codec: codecs.Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal((150, 70))
    before = codec.encode(weight)
    decoded = codec.decode(before, weight.shape)
    error = codecs.relative_error(codec, weight, before)
    monkeypatch.setattr(by_rows_module, "_CHUNK", 70 * 32)
    assert len(codecs.chunks(codec, weight.shape)) == (5 if by_rows(codec) else 1)
    after = codec.encode(weight)
    assert all(before[key].tobytes() == after[key].tobytes() for key in before)
    assert np.array_equal(codec.decode(after, weight.shape), decoded)
    assert codecs.relative_error(codec, weight, after) == pytest.approx(error, rel=1e-6)


@every_codec
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_relative_error_is_that_of_the_decoded_weight(codec: codecs.Codec, dtype: np.dtype) -> None:
    weight = normal((40, 130), dtype)
    parts = codec.encode(weight)
    expected = relative(codec.decode(parts, weight.shape), weight)
    assert codecs.relative_error(codec, weight, parts) == pytest.approx(expected, rel=1e-5, abs=1e-12)


@every_codec
def test_relative_error_of_zeros_tiny_and_huge_weights(codec: codecs.Codec) -> None:
    zero = np.zeros((40, 130), np.float32)
    parts = codec.encode(zero)
    assert not codec.decode(parts, zero.shape).any()
    assert codecs.relative_error(codec, zero, parts) == 0
    assert codecs.relative_error(codec, zero, codec.encode(normal(zero.shape))) == math.inf
    for spread in (1e-24, 1e24):
        if (
            codec.name == "gguf"
            or "16" in codec.label
            or "F16" in str(codec)
            or (spread < 1 and "F8" in str(codec))
        ):
            continue  # beyond the range of float16
        weight = normal(zero.shape, spread=spread)
        parts = codec.encode(weight)
        expected = relative(codec.decode(parts, weight.shape), weight)
        assert codecs.relative_error(codec, weight, parts) == pytest.approx(expected, rel=1e-5, abs=1e-12)


@every_codec
def test_strided_and_read_only_weights(codec: codecs.Codec) -> None:
    stored = normal((70, 40), FLOATS[1])
    stored.setflags(write=False)
    turned = codec.encode(stored.T)
    copied = codec.encode(np.ascontiguousarray(stored.T))
    assert all(turned[key].tobytes() == copied[key].tobytes() for key in copied)


@every_codec
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_is_not_finite_is_refused_with_its_place(codec: codecs.Codec, value: float, dtype: np.dtype) -> None:
    weight = normal((70, 50), dtype)
    weight[65, 3] = value
    weight[66, 1] = math.nan
    with pytest.raises(UserError, match=rf"model\.a\.weight holds {value} at \[65, 3\]"):
        codec.encode(weight, "model.a.weight")
    if by_rows(codec):
        with pytest.raises(UserError, match=r"at \[65, 3\]"):
            codec.encode_rows(weight[64:], "model.a.weight", first_row=64)


@every_codec
def test_wrong_parts_are_refused(codec: codecs.Codec) -> None:
    shape = (40, 64)
    parts = codec.encode(normal(shape))
    first = next(iter(parts))
    with pytest.raises(UserError, match="has parts"):
        codec.decode({key: part for key, part in parts.items() if key != first}, shape)
    with pytest.raises(UserError, match=f"{first} of"):
        codec.decode({**parts, first: parts[first][:-1]}, shape)
    with pytest.raises(UserError, match=f"{first} of"):
        codec.decode({**parts, first: parts[first].astype(np.float64)}, shape)
    with pytest.raises(UserError, match="bytes"):
        codecs.split(codecs.blob(parts, codec, shape)[:-1], codec, shape)


@pytest.mark.parametrize("codec", [c for c in ALL if c != codecs.DenseCodec("F32")], ids=lambda c: c.label)
def test_matrices_only_where_rows_have_scales(codec: codecs.Codec) -> None:
    if isinstance(codec, codecs.DenseCodec) and codec.dtype != "F8_E4M3":
        vector = normal((33,))
        assert np.allclose(codec.decode(codec.encode(vector), (33,)), vector, rtol=2**-8)
        return
    for shape in ((33,), (2, 3, 4), (0, 5)):
        with pytest.raises(UserError, match="matrices"):
            codec.nbytes(shape)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "integre", "bits": 4}, "did you mean integer"),
        ({}, "no codec"),
        ({"name": "integer", "bits": 4, "group": 64}, "no field 'group'"),
        ({"name": "integer"}, "needs bits"),
        ({"name": "integer", "bits": 9}, "1 to 8"),
        ({"name": "integer", "bits": True}, "1 to 8"),
        ({"name": "integer", "bits": 4, "group_size": 8}, "16 to 256"),
        ({"name": "integer", "bits": 4, "scale_dtype": "F8_E4M3"}, "BF16, F16, F32"),
        ({"name": "dense", "dtype": "F64"}, "F64"),
        ({"name": "low_rank", "rank": 0}, "at least 1"),
        ({"name": "low_rank", "rank": 2, "dtype": "I8"}, "I8"),
        (
            {"name": "sum", "base": {"name": "dense"}, "correction": {"name": "low_rank", "rank": 2}},
            "integer codec",
        ),
    ],
)
def test_plans_with_mistakes_are_explained(data: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        codecs.from_dict(data)


def test_two_codecs_of_one_name_are_refused() -> None:
    with pytest.raises(TypeError, match="two codecs"):
        type("Other", (codecs.Codec,), {"name": "integer"})


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(codecs.__path__)])
def test_examples_in_docstrings(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"steelyard.codecs.{module}"))
    assert outcome.failed == 0


def test_require_finite_finds_the_first_of_every_type() -> None:
    for dtype in (*FLOATS, np.dtype(np.float64), np.dtype(ml_dtypes.float8_e4m3fn)):
        weight = np.ones((3, 5000), np.float32).astype(dtype)
        codecs.require_finite("w", weight)
        weight[1, 4999] = math.nan
        with pytest.raises(UserError, match=r"w holds nan at \[101, 4999\]"):
            codecs.require_finite("w", weight, first_row=100)
    codecs.require_finite("w", np.empty((0, 4), np.float32))
    with pytest.raises(UserError, match=r"w holds inf at \[\]"):
        codecs.require_finite("w", np.array(math.inf, np.float32))
