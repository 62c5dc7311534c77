"""torch's decoding of a blob against the codec's own, whole and by rows."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from formats.folders import every_codec  # noqa: E402
from steelyard.codecs import Codec, IntegerCodec, blob  # noqa: E402
from steelyard.formats.native.torch_decoding import PackedMatrix, _decode, _integers  # noqa: E402
from steelyard.seeds import generator  # noqa: E402

SHAPES = [(70, 96), (33, 40), (16, 17)]
CODECS = [*every_codec("F16"), IntegerCodec(5, 48, False, "F32"), IntegerCodec(3, 16, True)]


def encoded(codec: Codec, shape: tuple[int, int]) -> tuple[torch.Tensor, np.ndarray]:
    weight = generator(3, f"{codec.label} {shape}").standard_normal(shape).astype(np.float32)
    parts = codec.encode(weight)
    return torch.from_numpy(blob(parts, codec, shape)), codec.decode(parts, shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.label)
def test_torch_decodes_as_the_codec_does(codec: Codec, shape: tuple[int, int]) -> None:
    data, expected = encoded(codec, shape)
    matrix = PackedMatrix(codec, shape)
    assert matrix.nbytes == data.numel()
    tolerance = 1e-5 if codec.name in ("low_rank", "sum") else 0
    np.testing.assert_array_equal(matrix.decode(data).numpy(), expected)
    everything = _decode(codec, matrix.parts(data), shape, None)
    np.testing.assert_allclose(everything.numpy(), expected, atol=tolerance, rtol=0)
    rows = torch.tensor([shape[0] - 1, 0, 0, 5])
    np.testing.assert_allclose(matrix.decode(data, rows).numpy(), expected[rows.numpy()], atol=tolerance, rtol=0)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_by_torchs_own_operations(bits: int, symmetric: bool) -> None:
    # What other devices do, here on the CPU.
    codec = IntegerCodec(bits, 16, symmetric, "F32")
    data, expected = encoded(codec, (70, 40))
    rows = torch.tensor([69, 3, 3, 31, 32])
    found = _integers(codec, PackedMatrix(codec, (70, 40)).parts(data), 40, rows)
    np.testing.assert_array_equal(found.numpy(), expected[rows.numpy()])


def test_no_rows_are_none() -> None:
    codec = IntegerCodec(4, 32, False)
    data, _ = encoded(codec, (33, 64))
    assert PackedMatrix(codec, (33, 64)).decode(data, torch.empty(0, dtype=torch.long)).shape == (0, 64)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.label)
def test_a_blob_may_start_anywhere_in_memory(codec: Codec) -> None:
    data, expected = encoded(codec, (33, 40))
    moved = torch.empty(data.numel() + 8, dtype=torch.uint8)
    for start in (1, 2, 3):
        moved[start : start + data.numel()] = data
        piece = moved[start : start + data.numel()]
        np.testing.assert_array_equal(PackedMatrix(codec, (33, 40)).decode(piece).numpy(), expected)
        rows = PackedMatrix(codec, (33, 40)).decode(piece, torch.arange(33))
        np.testing.assert_allclose(rows.numpy(), expected, atol=1e-5, rtol=0)


def test_rows_are_decoded_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.formats.native import torch_decoding

    codec = IntegerCodec(3, 16, False)
    data, expected = encoded(codec, (70, 96))
    monkeypatch.setattr(torch_decoding, "_CHUNK", 5 * 96)
    found = _decode(codec, PackedMatrix(codec, (70, 96)).parts(data), (70, 96), None)
    np.testing.assert_array_equal(found.numpy(), expected)
