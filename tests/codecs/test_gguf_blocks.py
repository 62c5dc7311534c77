"""The block types of GGUF against gguf-py's decoders and encoders, and against a search by brute force."""

from __future__ import annotations

import itertools

import gguf
import numpy as np
import pytest
from codec_examples import normal, relative
from gguf import GGMLQuantizationType, quants

from steelyard.codecs.gguf import GgufCodec
from steelyard.codecs.gguf.types import LEVELS, NUMBERS, TYPES
from steelyard.errors import UserError, WeightError

every_kind = pytest.mark.parametrize("kind", LEVELS)


def theirs(kind: str, blocks: np.ndarray) -> np.ndarray:
    """Return what gguf-py decodes."""
    with np.errstate(all="ignore"):
        return np.asarray(quants.dequantize(blocks, GGMLQuantizationType[kind]))


@pytest.mark.parametrize("number", TYPES)
def test_blocks_have_the_sizes_of_gguf(number: int) -> None:
    theirs = gguf.GGML_QUANT_SIZES[GGMLQuantizationType(number)]
    assert theirs == (TYPES[number].numbers, TYPES[number].nbytes) or TYPES[number].name == "Q8_1"
    assert GGMLQuantizationType(number).name == TYPES[number].name


@every_kind
def test_what_is_encoded_is_decoded_alike(kind: str) -> None:
    codec, weight = GgufCodec(kind), normal((19, 512))
    parts = codec.encode(weight)
    decoded = codec.decode(parts, weight.shape)
    assert np.array_equal(decoded.view(np.uint32), theirs(kind, parts["blocks"]).view(np.uint32))


@every_kind
def test_any_bytes_are_decoded_alike(kind: str) -> None:
    codec = GgufCodec(kind)
    shape = codec.parts((40, 512))["blocks"][1]
    blocks = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    with np.errstate(all="ignore"):
        decoded = codec.decode({"blocks": blocks}, (40, 512))
    assert np.array_equal(decoded, theirs(kind, blocks), equal_nan=True)


@every_kind
def test_fields_survive_the_bytes(kind: str) -> None:
    codec, weight = GgufCodec(kind), normal((5, 512))
    fields = codec.search(weight)
    again = codec.to_fields(codec.from_fields(fields), weight.shape)
    assert np.array_equal(again.floats, fields.floats) and np.array_equal(again.codes, fields.codes)
    assert np.array_equal(again.whole, fields.whole)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"])
def test_no_more_is_lost_than_by_gguf(kind: str) -> None:
    codec, weight = GgufCodec(kind), normal((64, 512))
    decoded = codec.decode(codec.encode(weight), weight.shape)
    peer = theirs(kind, quants.quantize(weight, GGMLQuantizationType[kind]))
    assert relative(decoded, weight) < relative(peer, weight)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "IQ4_XS"])
def test_importance_moves_the_error_to_where_it_costs_nothing(kind: str) -> None:
    codec, weight = GgufCodec(kind), normal((32, 512))
    importance = np.where(np.arange(512) % 4 == 0, 1.0, 0.01)

    def cost(decoded: np.ndarray) -> float:
        return float((((decoded - weight).astype(np.float64) ** 2) @ importance).sum())

    blind = codec.decode(codec.encode(weight), weight.shape)
    weighted = codec.decode(codec.from_fields(codec.search(weight, importance)), weight.shape)
    assert cost(weighted) < 0.8 * cost(blind)


@pytest.mark.parametrize("kind", ["Q4_0", "IQ4_NL", "Q4_1"])
def test_blocks_are_near_the_best_there_are(kind: str) -> None:
    codec, weight = GgufCodec(kind), normal((4, 32), spread=1.0)
    levels = LEVELS[kind]
    values = np.array(levels.table or range(levels.low, levels.high + 1), np.float64)
    found = ((codec.decode(codec.encode(weight), weight.shape) - weight) ** 2).sum(axis=1)
    best = []
    for row in weight.astype(np.float64):
        least = np.inf
        scales = np.linspace(-0.4, 0.4, 401) if levels.table or not levels.minimum else np.linspace(0.15, 0.4, 101)
        scales = scales / 10 if levels.table else scales
        offsets = np.linspace(row.min() - 0.5, row.min() + 0.8, 101) if levels.minimum else [0.0]
        for scale, offset in itertools.product(scales[np.abs(scales) > 1e-3], offsets):
            nearest = np.abs((row - offset)[:, None] - values * scale).min(axis=1)
            least = min(least, float(nearest @ nearest))
        best.append(least)
    assert found.sum() < 1.2 * sum(best)


@every_kind
def test_zeros_and_single_numbers_are_kept(kind: str) -> None:
    codec, weight = GgufCodec(kind), np.zeros((3, 256), np.float32)
    weight[1, 40] = 0.5
    weight[2] = -0.25
    decoded = codec.decode(codec.encode(weight), weight.shape)
    assert not decoded[0].any()
    assert np.isfinite(decoded).all() and decoded[1, 40] == pytest.approx(0.5, rel=0.07)
    assert decoded[2] == pytest.approx(-0.25, rel=0.07)


def test_weights_beyond_the_scales_are_refused() -> None:
    with pytest.raises(WeightError, match="Q4_0"):
        GgufCodec("Q4_0").encode(np.full((1, 32), 1e9, np.float32))
    with pytest.raises(UserError, match="Q4_K"):
        GgufCodec("IQ1_S")


def test_numbers_are_those_of_the_names() -> None:
    assert all(GGMLQuantizationType[kind].value == NUMBERS[kind] for kind in LEVELS)
