"""Codes of 1 bit: two levels for each group, against numpy in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from codec_examples import normal

from steelyard.codecs import IntegerCodec, blob
from steelyard.codecs.base import numpy_type
from steelyard.edits import registry
from steelyard.edits.quantize.statistics import Statistics
from steelyard.formats.independent import blob_rows
from steelyard.formats.native.torch_decoding import PackedMatrix

SHAPE = (37, 101)
VARIANTS = [
    IntegerCodec(1, group, symmetric, scale)
    for group, symmetric, scale in itertools.product((None, 24), (True, False), ("F32", "BF16"))
]
each = pytest.mark.parametrize("codec", VARIANTS, ids=lambda codec: codec.label)


def groups_of(codec: IntegerCodec, weight: np.ndarray) -> list[tuple[int, slice]]:
    size = codec.group_size or weight.shape[1]
    return [
        (i, slice(start, start + size)) for i in range(len(weight)) for start in range(0, weight.shape[1], size)
    ]


@each
def test_levels_are_the_means(codec: IntegerCodec) -> None:
    weight = normal(SHAPE, seed=3, spread=1.0) + np.float32(0.2)
    decoded = codec.decode(codec.encode(weight), SHAPE)
    near = 1e-6 if codec.scale_dtype == "F32" else 2**-7
    for i, columns in groups_of(codec, weight):
        group = weight[i, columns].astype(np.float64)
        if codec.symmetric:
            expected = np.where(group >= 0, 1, -1) * np.abs(group).mean()
        else:
            above = group >= group.mean()
            high, low = group[above].mean(), group[~above].mean()
            expected = np.where(group >= (high + low) / 2, high, low)
            clear = np.abs(group - (high + low) / 2) > 4 * near  # of where rounded levels meet
            expected = np.where(clear, expected, decoded[i, columns])
        np.testing.assert_allclose(decoded[i, columns], expected, rtol=near, atol=near)


@each
def test_bytes_are_a_bit_and_the_scales(codec: IntegerCodec) -> None:
    groups = codec.groups(SHAPE[1])
    numbers = groups * numpy_type(codec.scale_dtype).itemsize * (1 if codec.symmetric else 2)
    assert codec.nbytes(SHAPE) == SHAPE[0] * (4 * -(-SHAPE[1] // 32) + numbers)


@each
def test_every_reader_sees_the_same(codec: IntegerCodec) -> None:
    weight = normal(SHAPE, seed=1)
    parts = codec.encode(weight)
    data = blob(parts, codec, SHAPE)
    decoded = codec.decode(parts, SHAPE)
    np.testing.assert_array_equal(blob_rows(data, codec, SHAPE)(0, SHAPE[0]), decoded)
    rows = torch.tensor([5, 0, 36])
    matrix, stored = PackedMatrix(codec, SHAPE), torch.from_numpy(data)
    np.testing.assert_array_equal(matrix.decode(stored, rows).numpy(), decoded[rows.numpy()])
    np.testing.assert_allclose(matrix.decode(stored.to("cpu")).numpy(), decoded)
    codes, scale, zero = codec.to_codes(parts, SHAPE)
    again = codec.from_codes(codes, scale, zero)
    assert all(again[part].tobytes() == parts[part].tobytes() for part in parts)
    np.testing.assert_array_equal(codec.quantize_with(weight, scale, zero), codes)


@pytest.mark.parametrize("value", [0.0, 0.25, -0.25])
@each
def test_a_constant_is_kept(codec: IntegerCodec, value: float) -> None:
    weight = np.full(SHAPE, value, np.float32)
    np.testing.assert_array_equal(codec.decode(codec.encode(weight), SHAPE), weight)


@each
@pytest.mark.parametrize("name", ["rtn", "hqq", "gptq", "decoupleq", "sign-gradient"])
def test_methods_round_to_two_levels_and_gain(codec: IntegerCodec, name: str) -> None:
    generator = np.random.default_rng(0)
    weight = normal((16, 96), seed=2)
    inputs = generator.standard_normal((300, 96)) @ generator.standard_normal((96, 96)) * 0.3
    inputs *= np.geomspace(0.2, 3, 96)
    moment = inputs.T @ inputs / len(inputs)
    result = registry.get(name).function(weight, codec, Statistics(moment))
    parts = result.parts()
    decoded = codec.decode(parts, weight.shape)
    np.testing.assert_array_equal(result.decode(), decoded)
    for i, columns in groups_of(codec, weight):
        assert len(np.unique(decoded[i, columns])) <= 2

    def lost(found: np.ndarray) -> float:
        miss = found.astype(np.float64) - weight
        return float(np.einsum("ij,jk,ik->", miss, moment, miss))

    plain = codec.decode(codec.encode(weight), weight.shape)
    if name in ("gptq", "decoupleq", "sign-gradient"):
        assert lost(decoded) < 0.8 * lost(plain)
    if name == "rtn":
        power = np.diagonal(moment)
        assert ((decoded - weight) ** 2 @ power).sum() <= ((plain - weight) ** 2 @ power).sum() * 1.001
