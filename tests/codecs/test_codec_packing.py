"""Packing against arithmetic on long integers and against compressed-tensors' own functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard import codecs

all_bits = pytest.mark.parametrize("bits", range(1, 9))


def codes_of(bits: int, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    half = 1 << (bits - 1)
    return np.random.default_rng(seed).integers(-half, half, (rows, columns)).astype(np.int8)


@all_bits
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 4), columns=st.integers(1, 150), seed=st.integers(0, 99))
def test_packed_rows_are_one_long_number(bits: int, rows: int, columns: int, seed: int) -> None:
    codes = codes_of(bits, rows, columns, seed)
    packed = codecs.pack(codes, bits)
    assert packed.dtype == np.int32 and packed.shape == (rows, -(-columns * bits // 32))
    for row, words in zip(codes, packed, strict=True):
        number = sum((int(code) + (1 << (bits - 1))) << (i * bits) for i, code in enumerate(row))
        assert words.astype("<i4").tobytes() == number.to_bytes(4 * len(words), "little")
    assert np.array_equal(codecs.unpack(packed, bits, columns), codes)


@all_bits
@pytest.mark.parametrize("columns", [1, 7, 32, 33, 64, 100, 129])
def test_packing_is_that_of_compressed_tensors(bits: int, columns: int) -> None:
    torch = pytest.importorskip("torch")
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    codes = codes_of(bits, 37, columns)
    theirs = helpers.pack_to_int32(torch.from_numpy(codes), bits)
    assert np.array_equal(codecs.pack(codes, bits), theirs.numpy())
    assert np.array_equal(codecs.unpack(theirs.numpy(), bits, columns), codes)
    down = helpers.pack_to_int32(torch.from_numpy(codes), bits, packed_dim=0).numpy()
    assert np.array_equal(codecs.pack(codes.T, bits).T, down)


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_survive(bits: int) -> None:
    codec = codecs.IntegerCodec(bits, 32, False, "F32")
    codes, zero = codes_of(bits, 45, 100), codes_of(bits, 45, 4, seed=1)
    scale = np.random.default_rng(2).random((45, 4), dtype=np.float32) + 0.1
    parts = codec.from_codes(codes, scale, zero)
    again = codec.to_codes(parts, (45, 100))
    assert all(np.array_equal(a, b) for a, b in zip(again, (codes, scale, zero), strict=True))
    grouped = (codes.astype(np.float32) - np.repeat(zero, 32, axis=1)[:, :100]) * np.repeat(scale, 32, axis=1)[
        :, :100
    ]
    assert np.array_equal(codec.decode(parts, (45, 100)), grouped)


def test_codes_out_of_range_and_wrong_grids_are_refused() -> None:
    codec = codecs.IntegerCodec(3, 32, False)
    good = np.zeros((4, 64), np.int8), np.ones((4, 2), np.float32), np.zeros((4, 2), np.int8)
    codec.from_codes(*good)
    with pytest.raises(ValueError, match=r"codes of int3 .* lie in \[-4, 3\]"):
        codec.from_codes(good[0] + 4, good[1], good[2])
    with pytest.raises(ValueError, match="zero of int3"):
        codec.from_codes(good[0], good[1], good[2] - 5)
    with pytest.raises(ValueError, match="takes scales"):
        codec.from_codes(good[0], good[1][:, :1], good[2])
    with pytest.raises(ValueError, match="zero points"):
        codec.from_codes(good[0], good[1], None)
    with pytest.raises(ValueError, match="takes scales"):
        codec.quantize_with(np.zeros((4, 64), np.float32), good[1][:, :0], good[2])
    with pytest.raises(ValueError, match="no zero points"):
        codecs.IntegerCodec(3, 32).quantize_with(np.zeros((4, 64), np.float32), good[1], good[2])
