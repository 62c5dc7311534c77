"""Columns kept apart: where they are, what they save, and that they make up for the others as well as they can."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.codecs import IntegerCodec, OutlierCodec, blob
from steelyard.codecs.blockwise import BlockwiseCodec
from steelyard.edits.quantize.error import error
from steelyard.edits.quantize.gptq import gptq
from steelyard.edits.quantize.outliers import OutlierOptions, keep_outliers
from steelyard.edits.quantize.statistics import Statistics
from steelyard.errors import UserError
from steelyard.formats.independent import blob_rows

from .matrices import correlated

BASE = IntegerCodec(3, 16, True, "F32")


def planted() -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A matrix and inputs of which three channels are a hundred times as strong."""
    weight, moment = correlated(12, 24, 64)
    scale = np.ones(64)
    scale[[5, 40, 41]] = 10.0
    return weight, moment * np.outer(scale, scale), [5, 40, 41]


def test_bytes_and_places() -> None:
    codec, weight = OutlierCodec(BASE, 3), planted()[0].astype(np.float32)
    assert codec.nbytes(weight.shape) == BASE.nbytes((len(weight), 61)) + 2 * 3 * len(weight) + 4 * 3
    parts = codec.encode_columns(weight, np.array([5, 40, 41]))
    decoded = codec.decode(parts, weight.shape)
    np.testing.assert_allclose(decoded[:, [5, 40, 41]], weight[:, [5, 40, 41]], rtol=2**-8)
    rest = np.delete(weight, [5, 40, 41], axis=1)
    np.testing.assert_array_equal(
        np.delete(decoded, [5, 40, 41], axis=1), BASE.decode(BASE.encode(rest), rest.shape)
    )


def test_the_dearest_columns_are_found_and_kept() -> None:
    weight, moment, strong = planted()
    found = keep_outliers(weight, OutlierCodec(BASE, 3, "F32"), Statistics(moment))
    assert found.columns.tolist() == strong
    alone = error(weight, gptq(weight, BASE, Statistics(moment)).decode(), moment)
    assert error(weight, found.decode(), moment) < 0.5 * alone


def test_columns_kept_apart_are_the_least_squares_solution() -> None:
    weight, moment, _ = planted()
    found = keep_outliers(weight, OutlierCodec(BASE, 3, "F32"), Statistics(moment))
    apart, damped = found.columns, Statistics(moment).factor(64, 0.01, True)
    assert damped is not None
    rest = np.setdiff1d(np.arange(64), apart)
    root = np.linalg.cholesky(damped.hessian).T
    wanted = (root @ weight.astype(np.float64).T) - root[:, rest] @ found.base.decode().astype(np.float64).T
    best = np.linalg.lstsq(root[:, apart], wanted, rcond=None)[0].T
    np.testing.assert_allclose(found.kept, best, rtol=1e-4, atol=1e-5)
    plain = keep_outliers(
        weight, OutlierCodec(BASE, 3, "F32"), Statistics(moment), OutlierOptions(compensate=False)
    )
    np.testing.assert_allclose(plain.kept, weight[:, apart], rtol=1e-6)
    assert error(weight, found.decode(), moment) < error(weight, plain.decode(), moment)


def test_without_inputs_and_with_mistakes() -> None:
    weight, moment, _ = planted()
    for known in (Statistics(), Statistics(np.diag(moment))):
        found = keep_outliers(weight, OutlierCodec(BASE, 2), known)
        assert error(weight, found.decode(), moment) > 0 and len(found.columns) == 2
    with pytest.raises(UserError, match="kept apart from integers"):
        keep_outliers(weight, OutlierCodec(BlockwiseCodec("nf", 4, 64), 2))
    with pytest.raises(UserError, match="leaves no column"):
        keep_outliers(weight, OutlierCodec(BASE, 64))
    for columns, base in ((0, BASE), (1, OutlierCodec(BASE, 1))):
        with pytest.raises(UserError):
            OutlierCodec(base, columns)
    codec = OutlierCodec(BASE, 2)
    parts = codec.encode(weight.astype(np.float32))
    for wrong in ([[3, 3]], [[-1, 3]], [[3, 64]]):
        with pytest.raises(UserError, match="rising places"):
            codec.decode({**parts, "outlier_columns": np.array(wrong, np.int32)}, weight.shape)


@pytest.mark.parametrize("codec", [OutlierCodec(BASE, 5), OutlierCodec(BlockwiseCodec("nf", 4, 64), 2, "F16")])
def test_both_readers_and_torch_decode_alike(codec: OutlierCodec) -> None:
    torch = pytest.importorskip("torch")
    from steelyard.formats.native.torch_decoding import PackedMatrix

    weight = planted()[0].astype(np.float32)
    parts = codec.encode(weight)
    data, expected = blob(parts, codec, weight.shape), codec.decode(parts, weight.shape)
    np.testing.assert_array_equal(blob_rows(data, codec, weight.shape)(3, 11), expected[3:11])
    matrix, rows = PackedMatrix(codec, weight.shape), torch.tensor([23, 0, 0, 7])
    np.testing.assert_array_equal(matrix.decode(torch.from_numpy(data)).numpy(), expected)
    np.testing.assert_array_equal(matrix.decode(torch.from_numpy(data), rows).numpy(), expected[rows.numpy()])
    if isinstance(codec.base, IntegerCodec):
        from steelyard.formats.native import torch_decoding

        found = torch_decoding._decode(codec, matrix.parts(torch.from_numpy(data)), weight.shape, None)
        np.testing.assert_array_equal(found.numpy(), expected)
