"""Integers with a low-rank correction."""

from __future__ import annotations

import numpy as np

from steelyard.codecs import IntegerCodec, LowRankCodec, SumCodec
from steelyard.edits.quantize.error import error
from steelyard.edits.quantize.gptq import gptq
from steelyard.edits.quantize.low_rank import LowRankOptions, low_rank
from steelyard.edits.quantize.statistics import Statistics

from .matrices import correlated

BASE = IntegerCodec(bits=2, group_size=32, symmetric=False)


def test_correction_and_alternation_each_help() -> None:
    for seed in range(3):
        weight, moment = correlated(seed, 64, 96)
        statistics = Statistics(moment)
        codec = SumCodec(BASE, LowRankCodec(8))
        bare = error(weight, gptq(weight, BASE, statistics).decode(), moment)
        once = error(weight, low_rank(weight, codec, statistics, LowRankOptions(rounds=1)).decode(), moment)
        often = error(weight, low_rank(weight, codec, statistics, LowRankOptions(rounds=4)).decode(), moment)
        assert often < once < 0.9 * bare


def test_a_matrix_of_low_rank_needs_no_integers() -> None:
    draw = np.random.default_rng(5)
    weight = (draw.normal(size=(48, 4)) @ draw.normal(size=(4, 64))).astype(np.float32)
    codec = SumCodec(IntegerCodec(bits=2, group_size=32), LowRankCodec(4, "F32"))
    found = low_rank(weight, codec, Statistics(), LowRankOptions(rounds=12))
    bare = gptq(weight, codec.base, Statistics())
    assert error(weight, found.decode()) < 0.2 * error(weight, bare.decode())


def test_parts_decode_to_what_was_promised() -> None:
    weight, moment = correlated(7, 40, 64)
    codec = SumCodec(BASE, LowRankCodec(4))
    found = low_rank(weight, codec, Statistics(moment))
    np.testing.assert_array_equal(codec.decode(found.parts(), weight.shape), found.decode())
