"""The second reader against every codec, whole and by rows, and the bytes the codecs' page specifies."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from steelyard.codecs import Codec, blob
from steelyard.formats.independent import blob_rows

TESTS = Path(__file__).parents[1]
EXAMPLES: Mapping[str, tuple[Codec, ...]] = runpy.run_path(str(TESTS / "codecs" / "codec_examples.py"))["EXAMPLES"]
NEW = ("blockwise", "codebook", "float8", "microscaling", "nvfp4", "permuted", "ternary")
CODECS = [codec for name in NEW for codec in EXAMPLES[name]]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.label)
@pytest.mark.parametrize("shape", [(33, 47), (64, 96), (5, 130)])
def test_both_readers_agree(codec: Codec, shape: tuple[int, int]) -> None:
    weight = (np.random.default_rng(2).standard_normal(shape) * 0.02).astype(np.float32)
    parts = codec.encode(weight)
    rows = blob_rows(blob(parts, codec, shape), codec, shape)
    decoded = codec.decode(parts, shape)
    np.testing.assert_allclose(rows(0, shape[0]), decoded, rtol=1e-6, atol=0)
    np.testing.assert_allclose(rows(1, 4), decoded[1:4], rtol=1e-6, atol=0)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.label)
def test_torch_modules_decode_them(codec: Codec) -> None:
    torch = pytest.importorskip("torch")
    from steelyard.formats.native.torch_decoding import PackedMatrix

    shape = (48, 64)
    parts = codec.encode((np.random.default_rng(2).standard_normal(shape) * 0.02).astype(np.float32))
    packed, data = PackedMatrix(codec, shape), torch.from_numpy(blob(parts, codec, shape))
    expected = codec.decode(parts, shape)
    np.testing.assert_array_equal(packed.decode(data).numpy(), expected)
    chosen = packed.decode(data, torch.tensor([5, 0, 5]))
    np.testing.assert_array_equal(chosen.numpy(), expected[[5, 0, 5]])
    assert packed.factors(data, torch.float32) is None
