"""Rounding to codebooks: against brute force, and step by step never worse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from steelyard.codecs import CodebookCodec, IntegerCodec
from steelyard.edits.quantize._codewords import Codewords, fitted_scale, fitted_tables, losses
from steelyard.edits.quantize.additive import AdditiveOptions, additive, searched
from steelyard.edits.quantize.error import error
from steelyard.edits.quantize.kmeans import KmeansOptions, kmeans
from steelyard.edits.quantize.statistics import Statistics
from steelyard.errors import UserError

from .matrices import correlated


def drawn(codec: CodebookCodec, weight: np.ndarray, seed: int = 0) -> Codewords:
    """Codewords of the size of the weight, chosen at random."""
    draw = np.random.default_rng(seed)
    out, columns = weight.shape
    codes = draw.integers(0, codec.entries, (out, codec.groups(columns), codec.codebooks)).astype(np.uint16)
    tables = draw.standard_normal((codec.codebooks, codec.entries, codec.group)).astype(np.float32)
    return Codewords(codec, codes, codec.round_tables(tables), codec.row_scale(weight), columns)


def brute_force(weight: np.ndarray, fit: Codewords, hessian: np.ndarray) -> np.ndarray:
    """One code after the other by trying every codeword on the whole row, in float64."""
    codec, codes = fit.codec, fit.codes.copy()
    for r in range(len(codes)):
        for g in range(codes.shape[1]):
            for m in range(codec.codebooks):
                found = []
                for k in range(codec.entries):
                    codes[r, g, m] = k
                    miss = weight[r : r + 1] - replace(fit, codes=codes).decode()[r : r + 1].astype(np.float64)
                    found.append((miss @ hessian @ miss.T).item())
                codes[r, g, m] = int(np.argmin(found))
    return codes


@pytest.mark.parametrize("codec", [CodebookCodec(1, 3, 4, "F32", "F32"), CodebookCodec(2, 3, 5, "F32", "F32")])
def test_a_sweep_of_width_one_is_the_best_code_in_turn(codec: CodebookCodec) -> None:
    weight, moment = correlated(0, 6, 18)
    fit = drawn(codec, weight)
    np.testing.assert_array_equal(searched(weight, fit, moment, 1), brute_force(weight, fit, moment))


@pytest.mark.parametrize("width", [1, 2, 8])
def test_no_row_gets_worse_by_a_sweep(width: int) -> None:
    weight, moment = correlated(1, 24, 32)
    fit = drawn(CodebookCodec(2, 4, 4), weight)
    for _ in range(2):
        after = replace(fit, codes=searched(weight, fit, moment, width))
        assert (losses(after, weight, moment) <= losses(fit, weight, moment) * (1 + 1e-9)).all()
        fit = after


def test_a_beam_as_wide_as_all_choices_finds_the_best_of_them() -> None:
    codec = CodebookCodec(1, 2, 3, "F32", "F32")
    weight, moment = correlated(2, 5, 9)
    fit = drawn(codec, weight)
    found = losses(replace(fit, codes=searched(weight, fit, moment, 64)), weight, moment)
    every = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3, 1).astype(np.uint16)
    for row in range(5):
        one = np.repeat(weight[row : row + 1], len(every), axis=0)
        all_of_them = replace(fit, codes=every, scale=np.repeat(fit.scale[row : row + 1], len(every)))
        np.testing.assert_allclose(found[row], losses(all_of_them, one, moment).min(), rtol=1e-6)


def test_codewords_are_the_least_squares_and_scales_too() -> None:
    codec = CodebookCodec(2, 2, 4, "F32", "F32")
    weight, moment = correlated(3, 16, 12)
    fit = drawn(codec, weight)
    # The same problem written out: decoded = design * codewords for each row, weighted by the root of the moment.
    root = np.linalg.cholesky(moment + 1e-9 * np.eye(12))
    design = np.zeros((16, 12, 2 * 4 * 4))
    for r in range(16):
        for j in range(12):
            for m in range(2):
                design[r, j, (m * 4 + int(fit.codes[r, j // 4, m])) * 4 + j % 4] = fit.scale[r]
    turned = np.einsum("ji,rjk->rik", root, design).reshape(16 * 12, -1)
    best = np.linalg.lstsq(turned, (weight @ root).reshape(-1), rcond=None)[0]
    least = np.sum((turned @ best - (weight @ root).reshape(-1)) ** 2)
    tables = fitted_tables(fit, weight, moment, 300)
    reached = losses(replace(fit, tables=tables), weight, moment).sum()
    np.testing.assert_allclose(reached, least, rtol=1e-4)
    scale = fitted_scale(fit, weight, moment)
    for factor in (0.99, 1.01):
        moved = losses(replace(fit, scale=scale * np.float32(factor)), weight, moment)
        assert (moved >= losses(replace(fit, scale=scale), weight, moment)).all()


def test_every_round_lowers_the_error_and_the_beam_does_too() -> None:
    weight, moment = correlated(4, 96, 96)
    codec = CodebookCodec(1, 5, 4)
    found = [
        error(weight, additive(weight, codec, Statistics(moment), options).decode(), moment)
        for options in (
            AdditiveOptions(rounds=0),
            AdditiveOptions(rounds=1),
            AdditiveOptions(rounds=3),
            AdditiveOptions(rounds=3, beam=8),
        )
    ]
    assert found[0] > found[1] > found[2] > found[3]
    clusters = kmeans(weight, codec, Statistics(np.diag(moment)), KmeansOptions())
    assert error(weight, clusters.decode(), moment) > 2 * found[2]


def test_codebooks_beat_integers_of_more_bytes() -> None:
    from steelyard.edits.quantize.gptq import gptq

    weight, moment = correlated(5, 256, 128)
    codec, integers = CodebookCodec(1, 8, 4, table_dtype="F8_E4M3"), IntegerCodec(2, 16, False)
    assert codec.nbytes(weight.shape) < integers.nbytes(weight.shape)
    mine = additive(weight, codec, Statistics(moment)).decode()
    assert error(weight, mine, moment) < 0.8 * error(
        weight, gptq(weight, integers, Statistics(moment)).decode(), moment
    )


def test_weights_of_the_columns_count() -> None:
    weight, moment = correlated(6, 64, 48)
    diagonal = np.diag(moment)
    codec = CodebookCodec(1, 4, 4)
    weighted = kmeans(weight, codec, Statistics(diagonal)).decode()
    assert error(weight, weighted, diagonal) < 0.8 * error(weight, kmeans(weight, codec).decode(), diagonal)
    with pytest.raises(UserError, match="additive rounds to codebooks, not to int4"):
        additive(weight, IntegerCodec(4, 16), Statistics(moment))  # type: ignore[arg-type]
