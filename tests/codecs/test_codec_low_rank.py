"""Low-rank factors against the singular value decomposition, and corrections of integers."""

from __future__ import annotations

import numpy as np
import pytest
from codec_examples import FLOATS, normal, relative
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.codecs import IntegerCodec, LowRankCodec, SumCodec
from steelyard.errors import UserError


def second_moment(columns: int, samples: int, seed: int = 1) -> np.ndarray:
    """Return the mean of x x^T over inputs whose channels differ widely in size."""
    draw = np.random.default_rng(seed)
    inputs = draw.standard_normal((samples, columns)) * np.geomspace(0.01, 10, columns)
    mixed = inputs @ np.linalg.qr(draw.standard_normal((columns, columns)))[0]
    return mixed.T @ mixed / samples


def damage(weight: np.ndarray, decoded: np.ndarray, moment: np.ndarray) -> float:
    """Return trace(E H E^T)."""
    lost = decoded.astype(np.float64) - weight
    return float(np.einsum("ij,jk,ik->", lost, moment, lost))


@settings(max_examples=25, deadline=None)
@given(out=st.integers(2, 40), columns=st.integers(2, 40), share=st.floats(0, 1), seed=st.integers(0, 9))
def test_plain_factors_lose_the_trailing_singular_values(out: int, columns: int, share: float, seed: int) -> None:
    weight = normal((out, columns), seed=seed)
    rank = 1 + int(share * (min(out, columns) - 1))
    codec = LowRankCodec(rank, "F32")
    decoded = codec.decode(codec.encode(weight), weight.shape)
    values = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
    best = float(np.linalg.norm(values[rank:]))
    assert float(np.linalg.norm(decoded - weight)) == pytest.approx(best, rel=1e-4, abs=1e-5 * float(values[0]))


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
@pytest.mark.parametrize("samples", [400, 15])  # of full rank, and of fewer samples than channels
def test_weighted_factors_are_the_best_there_are(shape: tuple[int, int], samples: int) -> None:
    weight = normal(shape)
    moment = second_moment(shape[1], samples)
    codec = LowRankCodec(6, "F32")
    ours = damage(weight, codec.decode(codec.factor(weight, moment), shape), moment)
    # Independent optimum: what the decomposition of W H^(1/2) must leave.
    values, vectors = np.linalg.eigh(moment)
    root = vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T
    best = float((np.linalg.svd(weight @ root, compute_uv=False)[6:] ** 2).sum())
    assert ours == pytest.approx(best, rel=1e-3, abs=1e-9)
    plain = damage(weight, codec.decode(codec.encode(weight), shape), moment)
    assert ours < 0.9 * plain


def test_the_identity_weighs_nothing() -> None:
    weight = normal((20, 30))
    codec = LowRankCodec(5)
    plain, weighted = codec.factor(weight), codec.factor(weight, np.eye(30))
    assert np.allclose(codec.decode(plain, (20, 30)), codec.decode(weighted, (20, 30)), atol=1e-6)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_a_matrix_of_low_rank_is_kept(dtype: str) -> None:
    weight = (normal((50, 3), spread=1) @ normal((3, 70), seed=1, spread=1)).astype(np.float32)
    codec = LowRankCodec(8, dtype)
    tolerance = {"BF16": 2**-8, "F16": 2**-11, "F32": 1e-6}[dtype]
    assert relative(codec.decode(codec.encode(weight), weight.shape), weight) < tolerance
    assert relative(codec.decode(codec.encode(weight * 1e-3), weight.shape), weight * 1e-3) < tolerance


def test_signs_are_fixed() -> None:
    weight = normal((12, 20))
    factor = LowRankCodec(4, "F32").encode(weight)["lora_b"]
    assert (factor[np.abs(factor).argmax(axis=0), np.arange(4)] > 0).all()


def test_ranks_above_the_smaller_side_are_refused() -> None:
    with pytest.raises(UserError, match=r"rank 9 is above the smaller side of \[8, 20\]"):
        LowRankCodec(9).nbytes((8, 20))


def test_factors_beyond_float16_are_refused() -> None:
    with pytest.raises(UserError, match=r"factor B of head holds .* beyond float16"):
        LowRankCodec(1, "F16").encode(np.full((4, 4), 1e30, np.float32), "head")


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_corrections_repair_what_integers_lose(dtype: np.dtype) -> None:
    weight = normal((48, 64), dtype)
    moment = second_moment(64, 300)
    base = IntegerCodec(3, 32, False)
    parts = base.encode(weight)
    before = damage(weight, base.decode(parts, weight.shape), moment)
    damages = []
    for rank in (2, 8, 48):
        codec = SumCodec(base, LowRankCodec(rank, "F32"))
        corrected = codec.correct(weight, parts, moment)
        assert all(corrected[key] is parts[key] for key in parts)
        damages.append(damage(weight, codec.decode(corrected, weight.shape), moment))
        # The correction is the best of its rank: the trailing singular values of the weighted residual are left.
        lost = (weight.astype(np.float64) - base.decode(parts, weight.shape)) @ np.linalg.cholesky(moment)
        best = float((np.linalg.svd(lost, compute_uv=False)[rank:] ** 2).sum())
        assert damages[-1] == pytest.approx(best, rel=1e-3, abs=1e-6 * before)
    assert before > damages[0] > damages[1] > damages[2]


def test_a_sum_is_encoded_as_its_base_and_the_rest() -> None:
    weight = normal((33, 70))
    codec = SumCodec(IntegerCodec(2, 32, False), LowRankCodec(4))
    parts = codec.encode(weight)
    base = codec.base.encode(weight)
    assert all(np.array_equal(parts[key], base[key]) for key in base)
    rest = codec.correction.encode(weight - codec.base.decode(base, weight.shape))
    assert all(parts[key].tobytes() == rest[key].tobytes() for key in rest)
    assert codec.nbytes(weight.shape) == codec.base.nbytes(weight.shape) + codec.correction.nbytes(weight.shape)
