from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import spearmanr

from steelyard.measure.estimates import interval, rank_correlation, ratio, resamples
from steelyard.measure.measurement import Measurement
from steelyard.measure.scores import cosine_distance, language_measurement, score_tokens
from steelyard.measure.windows import IGNORED, TokenSet, Window


def test_token_scores_against_float64() -> None:
    import torch

    draw = np.random.default_rng(0)
    logits, base = draw.standard_normal((2, 3, 7, 50)) * 3
    labels = draw.integers(0, 50, (3, 7))
    labels[0, 2:] = IGNORED
    sums = score_tokens(torch.tensor(logits).float(), labels, torch.tensor(base).float())
    p, q = (log_softmax(x.astype(np.float32).astype(np.float64), axis=-1) for x in (base, logits))
    scored = labels != IGNORED
    picked = np.where(scored, labels, 0)[..., None]
    expected = {
        "tokens": scored.astype(float),
        "loss": -np.take_along_axis(q, picked, 2)[..., 0],
        "base_loss": -np.take_along_axis(p, picked, 2)[..., 0],
        "kl": (np.exp(p) * (p - q)).sum(-1),
        "agreement": (p.argmax(-1) == q.argmax(-1)).astype(float),
        "flips": (p.argmax(-1) == labels) & (q.argmax(-1) != labels),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(sums[name], (value * scored).sum(1), rtol=1e-5, err_msg=name)


def test_a_model_against_itself_has_no_divergence() -> None:
    import torch

    logits = torch.randn(2, 5, 30)
    sums = score_tokens(logits, np.zeros((2, 5), dtype=np.int64), logits.clone())
    assert (sums["kl"] == 0).all() and (sums["flips"] == 0).all() and (sums["agreement"] == 5).all()


def test_tiny_divergences_are_resolved() -> None:
    """KL of 1e-6 nats is what 8 bits cost; float32 must still see it."""
    import torch

    torch.manual_seed(0)
    base = torch.randn(1, 400, 1000) * 2
    logits = base + 1.5e-3 * torch.randn_like(base)
    sums = score_tokens(logits, np.zeros((1, 400), dtype=np.int64), base)
    p, q = base.double().log_softmax(-1), logits.double().log_softmax(-1)
    exact = float((p.exp() * (p - q)).sum(-1).sum())
    assert exact / 400 < 2e-6
    assert sums["kl"][0] == pytest.approx(exact, rel=0.03)


def test_intervals_cover_the_truth() -> None:
    """About 95 of 100 intervals hold the mean they estimate, for documents of unequal length."""
    draw = np.random.default_rng(1)
    held = 0
    for trial in range(300):
        tokens = draw.integers(50, 400, 40).astype(float)
        losses = tokens * (2 + 0.5 * draw.standard_normal(40))
        estimate = ratio(losses, tokens, resamples(40, 400, trial))
        held += estimate.low <= 2 <= estimate.high
    assert 0.89 <= held / 300 <= 0.985


def test_paired_interval_is_narrower_than_the_difference_of_two() -> None:
    draw = np.random.default_rng(2)
    base = draw.normal(3, 1, 60)
    model = base + draw.normal(0.01, 0.005, 60)
    ones, draws = np.ones(60), resamples(60, 1000, 0)
    paired = ratio(model - base, ones, draws)
    assert paired.low > 0 and paired.high - paired.low < 0.01
    assert ratio(model, ones, draws).high - ratio(model, ones, draws).low > 0.3


def test_interval_without_spread() -> None:
    assert interval(1.0, np.array([np.nan])).low == 1.0
    assert ratio(np.array([3.0]), np.array([2.0]), resamples(1, 10, 0)).high == 1.5


def test_rank_correlation_is_spearmans() -> None:
    draw = np.random.default_rng(3)
    first = draw.standard_normal((25, 8))
    second = first + 0.5 * draw.standard_normal((25, 8))
    estimate = rank_correlation(first, second, np.arange(25), resamples(25, 300, 0))
    a, b = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in (first, second))
    pairs = np.triu_indices(25, 1)
    assert estimate.value == pytest.approx(spearmanr((a @ a.T)[pairs], (b @ b.T)[pairs]).statistic, abs=1e-12)
    assert estimate.low < estimate.value < estimate.high < 1
    same = rank_correlation(first, 3 * first, np.arange(25), resamples(25, 50, 0))
    assert same.value == pytest.approx(1) and same.low == pytest.approx(1)


def test_cosine_distance_is_exact_where_tiny() -> None:
    a = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    b = np.array([[1.0, 1e-6], [0.0, 5.0], [0.0, -1.0]])
    np.testing.assert_allclose(cosine_distance(a, b), [0.5e-12, 1.0, 2.0], rtol=1e-6)


def test_measurement_survives_json() -> None:
    import json

    windows = tuple(Window(i // 2, np.arange(4), np.arange(4), 9 if i else None) for i in range(6))
    data = TokenSet(tuple("abc"), windows, "letters", tuple("abc"))
    draw = np.random.default_rng(4)
    sums = {name: draw.random(6) for name in ("loss", "base_loss", "kl", "agreement", "flips")}
    sums["tokens"] = np.full(6, 4.0)
    measured = language_measurement(sums, data, "model", "base", "causal", 0)
    assert measured.loss is not None and measured.loss.value == pytest.approx(sums["loss"].sum() / 24)
    assert measured.bits_per_byte is not None
    assert measured.bits_per_byte.value == pytest.approx(sums["loss"][1:].sum() / np.log(2) / 45)
    assert measured.resampled == "documents" and measured.documents == 3
    assert measured.per_document is not None and measured.per_document["kl"][1] == pytest.approx(
        sums["kl"][2:4].sum()
    )
    again = Measurement.from_dict(json.loads(json.dumps(measured.to_dict())))
    assert again.estimates() == measured.estimates() and again.damage == measured.kl


def test_one_document_is_resampled_by_windows() -> None:
    windows = tuple(Window(0, np.arange(4), np.arange(4), None) for _ in range(6))
    sums = {"loss": np.arange(6.0), "tokens": np.full(6, 4.0)}
    measured = language_measurement(sums, TokenSet(("a",), windows, "a", ("a",)), "m", None, "causal", 0)
    assert measured.resampled == "windows" and measured.bits_per_byte is None and measured.kl is None
    assert measured.loss is not None and measured.loss.low < measured.loss.value < measured.loss.high
