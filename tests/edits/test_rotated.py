"""A rotated matrix is turned back to itself, and rounded where its inputs are."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.codecs import IntegerCodec, blob
from steelyard.codecs.blockwise import BlockwiseCodec
from steelyard.codecs.dense import DenseCodec
from steelyard.codecs.rotated import RotatedCodec, sylvester
from steelyard.edits.quantize.error import error
from steelyard.edits.quantize.gptq import gptq
from steelyard.edits.quantize.rotated import RotatedOptions, round_rotated
from steelyard.edits.quantize.statistics import Statistics
from steelyard.errors import UserError
from steelyard.formats.independent import blob_rows

from .matrices import correlated

BASE = IntegerCodec(3, 16, True, "F32")


@pytest.mark.parametrize("columns", [64, 40, 16])
def test_nothing_is_lost_but_by_the_base(columns: int) -> None:
    weight = np.random.default_rng(0).standard_normal((8, columns)).astype(np.float32)
    codec = RotatedCodec(DenseCodec("F32"), 16)
    parts = codec.encode(weight)
    assert not np.allclose(parts["weight"][:, :16], weight[:, :16])
    np.testing.assert_allclose(np.linalg.norm(parts["weight"], axis=1), np.linalg.norm(weight, axis=1), rtol=1e-6)
    np.testing.assert_allclose(codec.decode(parts, weight.shape), weight, atol=1e-6)
    assert codec.nbytes(weight.shape) == 4 * weight.size + 2 * columns


def test_the_matrix_is_rotated_by_hadamard() -> None:
    matrix = sylvester(8)
    np.testing.assert_allclose(matrix @ matrix, np.eye(8), atol=1e-15)
    codec, weight = RotatedCodec(BASE, 8), np.random.default_rng(1).standard_normal((3, 20))
    whole = np.eye(20)
    whole[:8, :8] = whole[8:16, 8:16] = matrix
    scale = np.linspace(1, 3, 20)
    np.testing.assert_allclose(codec.turned(weight, scale), weight / scale @ whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_gptq_runs_where_the_rotated_inputs_are(alpha: float) -> None:
    weight, moment = correlated(3, 24, 64)
    codec = RotatedCodec(BASE, 64, "F32")
    found = round_rotated(weight, codec, Statistics(moment), RotatedOptions(alpha=alpha))
    scale = found.scale.reshape(-1).astype(np.float64)
    turn = np.diag(1 / scale) @ sylvester(64)
    inside = np.linalg.inv(turn) @ moment @ np.linalg.inv(turn).T
    plain = gptq(weight @ turn, BASE, Statistics((inside + inside.T) / 2)).decode().astype(np.float64)
    expected = error(weight, plain @ np.linalg.inv(turn), moment)
    assert error(weight, found.decode(), moment) == pytest.approx(expected, rel=0.05)
    # The error is the same inside and outside of the rotation.
    assert error(weight @ turn, found.base.decode(), inside) == pytest.approx(
        error(weight, found.decode(), moment), rel=1e-3
    )


def test_spikes_cost_less_when_they_are_spread() -> None:
    draw = np.random.default_rng(2)
    weight = draw.standard_normal((16, 64))
    weight[np.arange(16), draw.integers(0, 64, 16)] = 15.0
    rows = IntegerCodec(4, None, True, "F32")
    spread = round_rotated(weight, RotatedCodec(rows, 64)).decode()
    assert np.linalg.norm(spread - weight) < 0.7 * np.linalg.norm(
        gptq(weight, rows, Statistics()).decode() - weight
    )


@pytest.mark.parametrize("codec", [RotatedCodec(BASE, 32), RotatedCodec(BlockwiseCodec("nf", 4, 64), 16, "F16")])
def test_the_second_reader_agrees(codec: RotatedCodec) -> None:
    weight = np.random.default_rng(0).standard_normal((24, 72)).astype(np.float32)
    parts = codec.encode(weight)
    found = blob_rows(blob(parts, codec, weight.shape), codec, weight.shape)(3, 11)
    np.testing.assert_allclose(found, codec.decode(parts, weight.shape)[3:11], atol=1e-5)


def test_torch_decodes_alike() -> None:
    torch = pytest.importorskip("torch")
    from steelyard.formats.native.torch_decoding import PackedMatrix, _decode

    codec, weight = RotatedCodec(BASE, 32), np.random.default_rng(0).standard_normal((24, 72)).astype(np.float32)
    parts = codec.encode(weight)
    data, expected = torch.from_numpy(blob(parts, codec, weight.shape)), codec.decode(parts, weight.shape)
    matrix, rows = PackedMatrix(codec, weight.shape), torch.tensor([23, 0, 0, 7])
    np.testing.assert_array_equal(matrix.decode(data).numpy(), expected)
    np.testing.assert_allclose(matrix.decode(data, rows).numpy(), expected[rows.numpy()], atol=1e-5)
    found = _decode(codec, matrix.parts(data), weight.shape, None)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_mistakes() -> None:
    for wrong in (3, 1, 8192, True):
        with pytest.raises(UserError, match="power of two"):
            RotatedCodec(BASE, wrong)
    with pytest.raises(UserError, match="another codec"):
        RotatedCodec(RotatedCodec(BASE))
    with pytest.raises(UserError, match="F8"):
        RotatedCodec(BASE, 16, "F8_E4M3")
    with pytest.raises(UserError, match="not bf16"):
        round_rotated(np.ones((8, 32)), RotatedCodec(DenseCodec("BF16"), 16))
