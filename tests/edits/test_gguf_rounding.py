"""Rounding to GGUF's blocks: the error on correlated inputs, beside the nearest codes."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.codecs.gguf import GgufCodec
from steelyard.codecs.gguf.types import LEVELS
from steelyard.edits.quantize.error import error
from steelyard.edits.quantize.gguf import GgufOptions, gguf
from steelyard.edits.quantize.statistics import Statistics

ROWS, COLUMNS = 24, 512


@pytest.fixture(scope="module")
def problem() -> tuple[np.ndarray, np.ndarray]:
    """A matrix and the second moment of inputs that depend on each other."""
    draws = np.random.default_rng(3)
    weight = (draws.standard_normal((ROWS, COLUMNS)) * 0.03).astype(np.float32)
    inputs = draws.standard_normal((2 * COLUMNS, 48)) @ draws.standard_normal((48, COLUMNS))
    inputs += 0.7 * draws.standard_normal(inputs.shape)
    return weight, inputs.T @ inputs / len(inputs)


@pytest.mark.parametrize("kind", [kind for kind, levels in LEVELS.items() if not levels.table])
def test_later_columns_make_up_for_errors(problem: tuple[np.ndarray, np.ndarray], kind: str) -> None:
    weight, moment = problem
    codec = GgufCodec(kind)
    nearest = error(weight, gguf(weight, codec, Statistics(np.diagonal(moment))).decode(), moment)
    found = gguf(weight, codec, Statistics(moment))
    assert error(weight, found.decode(), moment) < 0.6 * nearest
    assert np.array_equal(codec.decode(found.parts(), weight.shape), found.decode())


@pytest.mark.parametrize("kind", ["Q3_K", "Q4_K", "Q4_1"])
def test_codes_are_those_of_the_plain_loop(problem: tuple[np.ndarray, np.ndarray], kind: str) -> None:
    weight, moment = problem
    codec, levels = GgufCodec(kind), LEVELS[kind]
    options = GgufOptions()
    found = gguf(weight, codec, Statistics(moment), options)
    factor = Statistics(moment).factor(COLUMNS, options.damping, True)
    assert factor is not None
    scale, least = (part.astype(np.float64) for part in codec.scales(found.fields))
    offset = {"": 0 * least, "below": -least, "any": least}[levels.minimum]
    work = weight.astype(np.float64)[:, factor.order]
    codes = np.empty((ROWS, COLUMNS))
    for place, column in enumerate(factor.order):
        s, o = scale[:, column // levels.each], offset[:, column // levels.each]
        level = np.clip(np.round((work[:, place] - o) / s), levels.low, levels.high)
        missed = (work[:, place] - (level * s + o)) / factor.lower[place, place]
        work[:, place + 1 :] -= np.outer(missed, factor.lower[place + 1 :, place])
        codes[:, column] = level - levels.low
    assert np.mean(codes == found.fields.codes) > 0.999  # ties and digits apart


def test_tables_and_odd_widths_take_the_nearest(problem: tuple[np.ndarray, np.ndarray]) -> None:
    weight, moment = problem
    for kind, columns in (("IQ4_XS", 512), ("MXFP4", 512), ("Q4_K", 300)):
        part, known = weight[:, :columns], np.ascontiguousarray(moment[:columns, :columns])
        full = gguf(part, GgufCodec(kind), Statistics(known))
        diagonal = gguf(part, GgufCodec(kind), Statistics(np.diagonal(known)))
        assert np.array_equal(full.decode(), diagonal.decode()) and full.decode().shape == part.shape
